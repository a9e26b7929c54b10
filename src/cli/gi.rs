//! Generation identifiers as text: `get-gi` for scripts, `show-gi` with what each digit means.

use crate::control::status::GenerationStatus;
use crate::meta::{Flags, Superblock};

/// The four identifiers and seven flags on one line.
pub(super) fn line(generations: &GenerationStatus) -> String {
    let flags = [
        generations.consistent,
        generations.was_up_to_date,
        generations.primary,
        generations.connected,
        generations.full_sync,
        generations.peer_outdated,
        generations.crashed_primary,
    ];
    let mut line = format!(
        "{:016X}:{:016X}:{:016X}:{:016X}",
        generations.current,
        generations.bitmap,
        generations.history_younger,
        generations.history_older
    );
    for flag in flags {
        line += if flag { ":1" } else { ":0" };
    }
    line
}

/// The drawing of `show-gi`; `place` says where the metadata is now.
pub(super) fn drawing(generations: &GenerationStatus, place: &str) -> String {
    format!(
        "
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V
{}
                                                                    ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | |
                                  -<  Node was/is currently primary  >--+ | | | |
                                  -<  Node was/is currently connected  >--+ | | |
         -<  Node was in the progress of setting all bits in the bitmap  >--+ | |
                        -<  The peer's disk was out-dated or inconsistent  >--+ |
      -<  This node was a crashed primary, and has not seen its peer since   >--+

flags: {}
meta-data: {place}
",
        line(generations),
        words(generations)
    )
}

fn words(generations: &GenerationStatus) -> String {
    let mut words = vec![
        if generations.primary { "Primary" } else { "Secondary" },
        if generations.connected { "Connected" } else { "StandAlone" },
        match (generations.consistent, generations.was_up_to_date) {
            (false, _) => "Inconsistent",
            (true, false) => "Outdated",
            (true, true) => "UpToDate",
        },
    ];
    for (flag, word) in [
        (generations.full_sync, "need full sync"),
        (generations.peer_outdated, "peer Outdated"),
        (generations.crashed_primary, "crashed Primary"),
    ] {
        if flag {
            words.push(word);
        }
    }
    words.join(", ")
}

/// What the metadata of a disk at rest says.
pub(super) fn of_superblock(superblock: &Superblock) -> GenerationStatus {
    let record = &superblock.record;
    let flag = |flag| record.flags.contains(flag);
    GenerationStatus {
        current: record.current,
        bitmap: record.bitmap,
        history_younger: record.history[0],
        history_older: record.history[1],
        consistent: flag(Flags::CONSISTENT),
        was_up_to_date: flag(Flags::WAS_UP_TO_DATE),
        primary: flag(Flags::PRIMARY_IND),
        connected: flag(Flags::CONNECTED_IND),
        full_sync: flag(Flags::FULL_SYNC),
        peer_outdated: flag(Flags::PEER_OUT_DATED),
        crashed_primary: flag(Flags::CRASHED_PRIMARY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of the original on a fresh pair.
    #[test]
    fn the_drawing_points_at_the_right_digits() {
        let generations = GenerationStatus {
            current: 4,
            connected: true,
            peer_outdated: true,
            ..GenerationStatus::default()
        };
        let expected =
            "0000000000000004:0000000000000000:0000000000000000:0000000000000000:0:0:0:1:0:1:0";
        assert_eq!(line(&generations), expected);
        let drawing = drawing(&generations, "need apply-al");
        let lines: Vec<&str> = drawing.lines().collect();
        assert_eq!(lines[6], expected);
        for (index, column) in lines[7].match_indices('^').map(|(column, _)| column).enumerate() {
            let digit = &lines[6][column..=column];
            assert_eq!(digit, ["0", "0", "0", "1", "0", "1", "0"][index]);
        }
        assert_eq!(lines[16], "flags: Secondary, Connected, Inconsistent, peer Outdated");
        assert_eq!(lines[17], "meta-data: need apply-al");
    }
}
