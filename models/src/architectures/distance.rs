//! What attention adds to a score for the distance between two tokens.

/// The slope of each head in ALiBi (Press et al. 2021): a geometric sequence, and for a number of
/// heads that is no power of two the odd members of the next longer one. `[heads]`
pub(crate) fn alibi_slopes(heads: usize) -> Vec<f32> {
    let whole = if heads.is_power_of_two() {
        heads
    } else {
        heads.next_power_of_two() / 2
    };
    let slopes = |count: usize| {
        (1..=count).map(move |head| 2_f64.powf(-8.0 * head as f64 / count as f64) as f32)
    };
    let rest = slopes(whole * 2).step_by(2);
    slopes(whole).chain(rest).take(heads).collect()
}

/// The bucket of each distance from `-reach` to `reach`, the key's position minus the query's, as
/// T5 and MPNet number them: half of the buckets for either direction, of which the first half are
/// single distances and the rest grow to `reach`. `[2 * reach + 1]`
pub(crate) fn buckets(count: usize, reach: usize) -> Vec<i64> {
    let (half, exact) = (count / 2, count / 4);
    let bucket = |distance: i64| {
        let before = if distance > 0 { half } else { 0 };
        let distance = distance.unsigned_abs() as usize;
        if distance < exact {
            return (before + distance) as i64;
        }
        let growth =
            (distance as f32 / exact as f32).ln() / (reach as f64 / exact as f64).ln() as f32;
        let grown = exact + (growth * (half - exact) as f32) as usize;
        (before + grown.min(half - 1)) as i64
    };
    let reach = reach as i64;
    (-reach..=reach).map(bucket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        let eight: Vec<f32> = (1..=8).map(|head| 0.5_f32.powi(head)).collect();
        assert_eq!(alibi_slopes(8), eight);
        let twelve = alibi_slopes(12);
        assert_eq!(twelve[..8], eight);
        let root = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(twelve[8..], [root, root / 2.0, root / 4.0, root / 8.0]);
        assert_eq!(alibi_slopes(1), [2_f32.powi(-8)]);
    }

    #[test]
    fn buckets_are_those_of_the_reference() {
        let buckets = buckets(32, 128);
        let at = |distance: i64| buckets[(128 + distance) as usize];
        // What `relative_position_bucket` of transformers gives.
        let expected = [
            (0, 0),
            (1, 17),
            (-1, 1),
            (7, 23),
            (8, 24),
            (-8, 8),
            (11, 24),
            (12, 25),
            (16, 26),
            (22, 26),
            (23, 27),
            (-31, 11),
            (32, 28),
            (64, 30),
            (-90, 14),
            (91, 31),
            (128, 31),
            (-128, 15),
        ];
        for (distance, bucket) in expected {
            assert_eq!(at(distance), bucket, "{distance}");
        }
    }
}
