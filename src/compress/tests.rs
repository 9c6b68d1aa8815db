//! Tests of the names of codings.

use super::*;

#[test]
fn codings_are_read_as_they_are_written() {
    for coding in Coding::ALL {
        assert_eq!(coding.to_string().parse(), Ok(coding));
    }
    assert_eq!("X-GZIP".parse(), Ok(Coding::Gzip));
    assert_eq!("identity".parse::<Coding>(), Err(CodingError("identity".to_owned())));
}
