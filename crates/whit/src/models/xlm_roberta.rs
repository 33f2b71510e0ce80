//! XLM-RoBERTa (Conneau et al., 2019): RoBERTa over a vocabulary of a hundred languages.

use super::encoder::EncoderArchitecture;

pub(super) const ENCODER: EncoderArchitecture =
    EncoderArchitecture { id: "xlm-roberta", title: "XLM-RoBERTa", ..super::roberta::ENCODER };
