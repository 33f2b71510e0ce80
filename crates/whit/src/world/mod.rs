//! Data that the project makes itself: text from the locked dependencies ([`corpus`]) and
//! generated tasks with known answers ([`tasks`]).

pub mod corpus;
pub mod passages;
mod screen;
pub mod tasks;

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
