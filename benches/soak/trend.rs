//! A slope that single samples do not move, and how certain it is.

use crate::measure::median;

/// Samples of one second after another are much alike, so that a thousand of them would seem to
/// prove more than they do. Their medians over so many stretches are what counts.
const STRETCHES: usize = 30;
const STRETCHES_MIN: usize = 8;
/// The quantile of the normal distribution for 95 % on both sides.
const Z: f64 = 1.96;

/// What each step to the right adds.
#[derive(Debug, Clone, Copy)]
pub struct Slope {
    /// The estimate of Theil (1950) and Sen (1968): the median over all pairs of points.
    pub middle: f64,
    /// The lower end of its 95 % interval.
    pub least: f64,
    /// The upper end.
    pub most: f64,
}

/// The slope of points that are sorted by their first coordinate; nothing when they are too few.
pub fn slope(points: &[(f64, f64)]) -> Option<Slope> {
    let points = medians(points);
    let count = points.len();
    if count < STRETCHES_MIN {
        return None;
    }
    let mut slopes = Vec::new();
    for (at, left) in points.iter().enumerate() {
        let later = points[at + 1..].iter().filter(|right| right.0 > left.0);
        slopes.extend(later.map(|right| (right.1 - left.1) / (right.0 - left.0)));
    }
    slopes.sort_by(f64::total_cmp);
    // By the variance of Kendall's statistic, as Sen (1968) has it.
    let count = count as f64;
    let width = Z * (count * (count - 1.0) * (2.0 * count + 5.0) / 18.0).sqrt();
    let pairs = slopes.len() as f64;
    let last = slopes.len().checked_sub(1)?;
    let least = ((pairs - width) / 2.0).floor().max(0.0) as usize;
    let most = ((pairs + width) / 2.0).ceil() as usize;
    Some(Slope {
        middle: median(&slopes),
        least: slopes[least],
        most: slopes[most.min(last)],
    })
}

/// The middle of each stretch of samples.
fn medians(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let stretch = points.len().div_ceil(STRETCHES).max(1);
    let middle = |stretch: &[(f64, f64)]| {
        let of = |coordinate: fn(&(f64, f64)) -> f64| {
            median(&stretch.iter().map(coordinate).collect::<Vec<f64>>())
        };
        (of(|point| point.0), of(|point| point.1))
    };
    points.chunks(stretch).map(middle).collect()
}
