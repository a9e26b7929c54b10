//! The texts of drbdmeta (metadata.md 6): dump-md, get-gi, dstate. Scripts read them, and
//! restore-md reads a dump, so they are the same to the byte; but the flags are the true ones.

use std::fmt::Write as _;

use super::bitmap::{PAGE_WORDS, count_bits, load};
use super::error::MetaError;
use super::flags::Flags;
use super::layout::Layout;
use super::storage::Storage;
use super::superblock::Superblock;

/// Words on a line of the bm block.
const LINE_WORDS: usize = 4;
/// Words between two comments that tell the position: 8 MiB of data.
const COMMENT_WORDS: usize = 32;
/// KiB of data that a word stands for.
const WORD_KIB: usize = 256;

/// The five lines that begin a dump: when, where and by what command it was made.
pub fn dump_header(unix_seconds: u64, host: &str, command: &str) -> String {
    let (year, month, day) = civil_date(unix_seconds / 86400);
    let (hour, minute, second) =
        (unix_seconds / 3600 % 24, unix_seconds / 60 % 60, unix_seconds % 60);
    format!(
        "# DRBD meta data dump\n\
         # {year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 [{unix_seconds}]\n\
         # {host}> {command}\n#\n\n"
    )
}

/// dump-md, without the header. Unclean metadata is refused unless forced, because the log holds
/// what its bitmap does not; a forced dump says so in a way that restore-md does not accept.
pub fn dump(
    superblock: &Superblock,
    layout: &Layout,
    storage: &mut impl Storage,
    force: bool,
) -> Result<String, MetaError> {
    let clean = superblock.log_is_applied();
    if !clean && !force {
        return Err(MetaError::Unclean);
    }
    let record = &superblock.record;
    let sectors = record.agreed_sectors.min(layout.usable_sectors);
    // Whole pages as they are on disk, as drbdmeta shows them.
    let words = load(storage, layout, sectors)?;

    let mut text = String::from("version \"v08\";\n\n");
    if !clean {
        text.push_str(
            "This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.\n\
             # You should \"apply-al\" first, if you plan to restore this.\n\n",
        );
    }
    let _ = write!(
        text,
        "# md_size_sect {}\n# md_offset {}\n# al_offset {}\n# bm_offset {}\n\n\
         uuid {{\n    0x{:016X}; 0x{:016X}; 0x{:016X}; 0x{:016X};\n    flags 0x{:08X};\n}}\n\
         # al-extents {};\nla-size-sect {};\nbm-byte-per-bit 4096;\ndevice-uuid 0x{:016X};\n\
         la-peer-max-bio-size {};\nal-stripes {};\nal-stripe-size-4k {};\n# bm-bytes {};\nbm {{\n",
        layout.metadata_sectors,
        layout.superblock_offset_bytes,
        layout.log_offset_bytes,
        layout.bitmap_offset_bytes,
        record.current,
        record.bitmap,
        record.history[0],
        record.history[1],
        record.flags.0,
        superblock.log_slots,
        sectors,
        superblock.device_uuid,
        record.peer_max_bio_bytes,
        superblock.log.stripes,
        superblock.log.stripe_blocks,
        words.len() * 8,
    );
    dump_words(&words, &mut text);
    let _ = write!(text, "}}\n# bits-set {};\n", count_bits(&words));
    Ok(text)
}

/// Two or more whole lines of nothing but clear, or nothing but set, bits are told as a count.
fn dump_words(words: &[u64], text: &mut String) {
    debug_assert!(words.len().is_multiple_of(PAGE_WORDS));
    let mut at = 0;
    while at < words.len() {
        if at.is_multiple_of(COMMENT_WORDS) {
            let _ = writeln!(text, "   # at {}kB", at * WORD_KIB);
        }
        let first = words[at];
        let run = words[at..].iter().take_while(|&&word| word == first).count();
        let whole = run / LINE_WORDS * LINE_WORDS;
        if (first == 0 || first == u64::MAX) && whole >= 2 * LINE_WORDS {
            let _ = writeln!(text, "    {whole} times 0x{first:016X};");
            at += whole;
            continue;
        }
        text.push_str("   ");
        for word in &words[at..at + LINE_WORDS] {
            let _ = write!(text, " 0x{word:016X};");
        }
        text.push('\n');
        at += LINE_WORDS;
    }
}

/// get-gi: the generations, and seven flags as 0 or 1.
pub fn generation_line(superblock: &Superblock) -> String {
    const SHOWN: [Flags; 7] = [
        Flags::CONSISTENT,
        Flags::WAS_UP_TO_DATE,
        Flags::PRIMARY_IND,
        Flags::CONNECTED_IND,
        Flags::FULL_SYNC,
        Flags::PEER_OUT_DATED,
        Flags::CRASHED_PRIMARY,
    ];
    let record = &superblock.record;
    let mut line = format!(
        "{:016X}:{:016X}:{:016X}:{:016X}",
        record.current, record.bitmap, record.history[0], record.history[1]
    );
    for flag in SHOWN {
        let _ = write!(line, ":{}", u8::from(record.flags.contains(flag)));
    }
    line
}

/// dstate: the state that an attach without a peer would give at most.
pub fn disk_state(flags: Flags) -> &'static str {
    if !flags.contains(Flags::CONSISTENT) {
        "Inconsistent"
    } else if !flags.contains(Flags::WAS_UP_TO_DATE) {
        "Outdated"
    } else if !flags.contains(Flags::PEER_OUT_DATED) {
        "Consistent"
    } else {
        "UpToDate"
    }
}

/// Year, month, day of the Gregorian calendar, `days` after 1970-01-01. Counted in eras of 400
/// years (146097 days) that begin on the first of March, so that leap days come last.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_drbdmeta_writes_it() {
        let text =
            dump_header(1_795_400_791, "lab", "drbdmeta --force 0 v08 /dev/vda internal dump-md");
        assert_eq!(
            text,
            "# DRBD meta data dump\n# 2026-11-23 02:26:31 +0000 [1795400791]\n\
             # lab> drbdmeta --force 0 v08 /dev/vda internal dump-md\n#\n\n"
        );
        assert_eq!(civil_date(19_782), (2024, 2, 29));
        assert_eq!(civil_date(0), (1970, 1, 1));
    }

    /// What drbd-utils 9.22 prints for this bitmap: only zeroes and ones are counted, from the
    /// start of a line, and two lines at least.
    #[test]
    fn runs_are_counted_as_drbdmeta_counts_them() {
        let mut words = [vec![0; 7], vec![u64::MAX], vec![0; 8], vec![u64::MAX; 4]].concat();
        words.extend([vec![0; 8], vec![0xAAAA; 8], vec![u64::MAX; 13]].concat());
        words.resize(512, 0);
        let mut text = String::new();
        dump_words(&words, &mut text);
        let (zero, ones) = ("0x0000000000000000;", "0xFFFFFFFFFFFFFFFF;");
        let a = "0x000000000000AAAA;";
        let expected = [
            "   # at 0kB".into(),
            format!("    {zero} {zero} {zero} {zero}"),
            format!("    {zero} {zero} {zero} {ones}"),
            format!("    8 times {zero}"),
            format!("    {ones} {ones} {ones} {ones}"),
            format!("    8 times {zero}"),
            format!("    {a} {a} {a} {a}"),
            "   # at 8192kB".into(),
            format!("    {a} {a} {a} {a}"),
            format!("    12 times {ones}"),
            format!("    {ones} {zero} {zero} {zero}"),
            format!("    460 times {zero}"),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn disk_states_follow_the_flags() {
        assert_eq!(disk_state(Flags(0)), "Inconsistent");
        assert_eq!(disk_state(Flags(0x10)), "Inconsistent");
        assert_eq!(disk_state(Flags(0x01)), "Outdated");
        assert_eq!(disk_state(Flags(0x11)), "Consistent");
        assert_eq!(disk_state(Flags(0x31)), "UpToDate");
    }
}
