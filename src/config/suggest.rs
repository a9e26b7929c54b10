//! "Did you mean": the known word that a mistyped one is nearest to.

/// The candidate that takes the fewest typing mistakes, if that is few enough to be one.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One mistake in short words, up to four in long ones.
    let allowed = (word.len() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        // Nothing in common is no near miss either.
        .filter(|&(mistakes, _)| mistakes <= allowed && mistakes < word.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Mistakes: a character wrong, missing or too many, or two neighbours swapped; upper and lower
/// case and `_` for `-` are not counted.
fn distance(left: &str, right: &str) -> usize {
    let plain = |text: &str| -> Vec<char> {
        let same = |character: char| match character {
            '_' => '-',
            other => other.to_ascii_lowercase(),
        };
        // Every known word is shorter; a longer one is no near miss.
        text.chars().take(64).map(same).collect()
    };
    let (left, right) = (plain(left), plain(right));
    let width = right.len() + 1;
    let mut before_last = vec![0; width];
    let mut last: Vec<usize> = (0..width).collect();
    for row in 1..=left.len() {
        let mut current = vec![row; width];
        for column in 1..width {
            let differs = usize::from(left[row - 1] != right[column - 1]);
            let mut best = (last[column] + 1).min(current[column - 1] + 1);
            best = best.min(last[column - 1] + differs);
            let swapped = row > 1
                && column > 1
                && left[row - 1] == right[column - 2]
                && left[row - 2] == right[column - 1];
            if swapped {
                best = best.min(before_last[column - 2] + 1);
            }
            current[column] = best;
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found_and_others_left_alone() {
        let known = ["timeout", "ping-timeout", "meta-disk", "disk", "C", "no"];
        assert_eq!(nearest("timeot", known), Some("timeout"));
        assert_eq!(nearest("tiemout", known), Some("timeout"));
        assert_eq!(nearest("meta-disc", known), Some("meta-disk"));
        assert_eq!(nearest("Meta_Disk", known), Some("meta-disk"));
        assert_eq!(nearest("c", known), Some("C"));
        assert_eq!(nearest("frobnicate", known), None);
        assert_eq!(nearest("D", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(nearest(&"x".repeat(10_000), known), None);
    }
}
