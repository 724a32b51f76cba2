//! The catalogue of composites.

use registry::patterns::ALL;

#[test]
fn every_entry_is_a_sound_composite() {
    for (name, pattern) in ALL {
        assert!(pattern.is_composite(), "{name} is a primitive");
        if let Err(e) = pattern.check() {
            panic!("{name}: {e}");
        }
    }
}

#[test]
fn no_two_entries_are_equal() {
    for (i, (name, pattern)) in ALL.iter().enumerate() {
        let again = ALL[..i].iter().find(|(_, earlier)| earlier == pattern);
        if let Some((earlier, _)) = again {
            panic!("{name} is {earlier} again");
        }
    }
}
