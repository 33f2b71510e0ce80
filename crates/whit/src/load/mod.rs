//! Model folders, safetensors, GGUF and tokenizers; every way a file can be wrong has a named error.
