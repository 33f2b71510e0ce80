//! Data that the project makes itself: text from the locked dependencies ([`corpus`]), generated tasks with
//! known answers ([`tasks`]), and a toy world of [`scene`]s in which everything is known of every picture.
//! [`folder`] reads and writes pictures as ordinary folders, so that users bring their own.

pub mod corpus;
pub mod degrade;
pub mod folder;
pub mod passages;
pub mod pictures;
pub mod scene;
mod screen;
pub mod shape;
pub mod tasks;
pub mod topics;

pub use pictures::{Batch, Picture, Pictures, Scenes};
pub use scene::{Rendered, Scene, World, WorldError};

/// The 64-bit FNV-1a hash of `bytes`: the same on every machine and in every version, so that what
/// is chosen by it (splits, samples, orders) never moves.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(super::stable_hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(super::stable_hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(super::stable_hash(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
