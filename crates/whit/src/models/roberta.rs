//! RoBERTa (Liu et al., 2019): BERT whose positions are counted from behind the padding's id.

use super::encoder::{EncoderArchitecture, Kin};
use crate::nn::encoder::Counting;

pub(super) const ENCODER: EncoderArchitecture = EncoderArchitecture {
    id: "roberta",
    title: "RoBERTa",
    kin: Kin::Bert { prefix: "roberta", padding: 1, counting: Counting::FromPadding },
};
