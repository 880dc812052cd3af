//! Random histories: see `fuzzing::history` for what they are and what must hold.

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_history_gives_the_bits_of_the_model(bytes in prop::collection::vec(any::<u8>(), 30..120)) {
        crate::fuzzing::history(&bytes);
    }
}
