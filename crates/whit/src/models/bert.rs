//! BERT (Devlin et al., 2018): positions from 0, two token types.

use super::encoder::{EncoderArchitecture, Kin};
use crate::nn::encoder::Counting;

pub(super) const ENCODER: EncoderArchitecture = EncoderArchitecture {
    id: "bert",
    title: "BERT",
    kin: Kin::Bert { prefix: "bert", padding: 0, counting: |_| Counting::FromZero },
};
