//! What each lane is owed: the account that keeps the one that goes first from taking everything.
//! Pure arithmetic; time comes in as core-seconds that were used.

use crate::engine::lane::{Lane, PerLane};

/// Core-seconds that a lane may lag behind its share before it goes first. Long enough that a
/// burst of queries passes at once, short enough that nobody notices bulk work standing still.
const PATIENCE: f64 = 0.25;

/// How far each lane that has work is behind its share of the device.
#[derive(Debug, Clone)]
pub struct Shares {
    parts: PerLane<f64>,
    owed: PerLane<f64>,
}

impl Shares {
    /// Nobody is owed anything. `parts` sum to 1.
    pub fn new(parts: PerLane<f64>) -> Self {
        Self {
            parts,
            owed: PerLane::default(),
        }
    }

    /// `lane` has used the device for so many core-seconds, while those lanes wanted it that
    /// `wanting` says. A lane without work is owed nothing: shares are not saved up. Nor is a
    /// lane in debt that had more than its share, because nobody else wanted it then.
    pub fn used(&mut self, lane: Lane, core_seconds: f64, wanting: PerLane<bool>) {
        for each in Lane::ALL {
            if !wanting[each] {
                self.owed[each] = 0.0;
                continue;
            }
            let own = if each == lane { core_seconds } else { 0.0 };
            let owed = self.owed[each] + self.parts[each] * core_seconds - own;
            self.owed[each] = owed.max(0.0);
        }
    }

    /// The lane that must go first now, whatever the usual order says.
    pub fn due(&self) -> Option<Lane> {
        Lane::ALL
            .into_iter()
            .filter(|&lane| self.owed[lane] > PATIENCE)
            .max_by(|&a, &b| self.owed[a].total_cmp(&self.owed[b]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(interactive: f64) -> Shares {
        Shares::new(PerLane::of(|lane| match lane {
            Lane::Interactive => interactive,
            Lane::Bulk => 1.0 - interactive,
        }))
    }

    #[test]
    fn a_lane_without_work_saves_nothing_up() {
        let mut shares = shares(0.8);
        let only = |wanted| PerLane::of(|lane| lane == wanted);
        shares.used(Lane::Interactive, 100.0, only(Lane::Interactive));
        assert_eq!(shares.due(), None);
        shares.used(Lane::Interactive, 1.0, PerLane::of(|_| true));
        assert_eq!(shares.due(), None);
        shares.used(Lane::Interactive, 1.0, PerLane::of(|_| true));
        assert_eq!(shares.due(), Some(Lane::Bulk));
    }

    proptest! {
        /// With both lanes wanting everything, each gets its share of any long stretch, but for
        /// the patience and the longest run, however long runs are and whoever goes first.
        #[test]
        fn each_lane_gets_its_share(
            part in 0.5f64..0.95,
            runs in proptest::collection::vec((0.001f64..0.1, 0.001f64..0.1), 200..400),
        ) {
            let mut shares = shares(part);
            let mut used = PerLane::<f64>::default();
            for (interactive, bulk) in runs {
                let lane = shares.due().unwrap_or(Lane::Interactive);
                let run = if lane == Lane::Interactive { interactive } else { bulk };
                shares.used(lane, run, PerLane::of(|_| true));
                used[lane] += run;
            }
            let total = used[Lane::Interactive] + used[Lane::Bulk];
            let bulk = 1.0 - part;
            prop_assert!(used[Lane::Bulk] >= bulk * total - PATIENCE - 0.1);
            prop_assert!(used[Lane::Interactive] >= part * total - PATIENCE - 0.2);
        }
    }
}
