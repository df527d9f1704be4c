//! No fast path is believed: before a process uses one, it has to compute what the portable path
//! does on problems that are built in. So an instruction that a compiler, an emulator or a
//! hypervisor has wrong costs speed and never makes wrong vectors.

use super::{Extensions, Isa, Level};
use crate::attention::{self, Precision};
use crate::linear::{self, LinearKind};
use std::sync::OnceLock;

/// What was found out about an instruction set.
pub(super) struct Proof {
    /// The best one that computes what it should.
    pub(super) isa: Isa,
    /// What was reported and computes something else, for people.
    pub(super) failed: Vec<&'static str>,
}

/// What is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Linear(LinearKind),
    Attention(Precision),
}

impl Subject {
    const ALL: [Self; 5] = [
        Self::Linear(LinearKind::Fp32),
        Self::Linear(LinearKind::Bf16),
        Self::Linear(LinearKind::Int8),
        Self::Attention(Precision::Fp32),
        Self::Attention(Precision::Bf16),
    ];

    /// Whether it computes on `isa` what the portable path does.
    fn is_right(self, isa: Isa) -> bool {
        match self {
            Self::Linear(kind) => linear::reproduces(kind, isa),
            Self::Attention(precision) => attention::reproduces(precision, isa),
        }
    }

    /// The name of its path.
    fn path(self, isa: Isa) -> &'static str {
        match self {
            Self::Linear(kind) => kind.path(isa),
            Self::Attention(precision) => match precision.on(isa) {
                Precision::Fp32 => "attention in fp32",
                Precision::Bf16 => "attention in bf16",
            },
        }
    }

    /// `isa` without the instructions that it ran on; `None` when those are the level's.
    fn without(self, Isa(level, extensions): Isa) -> Option<Isa> {
        let Extensions {
            bf16,
            int8,
            tiles_bf16,
            tiles_int8,
        } = extensions;
        let left = match self {
            Self::Linear(LinearKind::Bf16) if tiles_bf16 => Extensions {
                tiles_bf16: false,
                ..extensions
            },
            Self::Linear(LinearKind::Int8) if tiles_int8 => Extensions {
                tiles_int8: false,
                ..extensions
            },
            Self::Linear(LinearKind::Bf16) | Self::Attention(Precision::Bf16) if bf16 => {
                Extensions {
                    bf16: false,
                    tiles_bf16: false,
                    ..extensions
                }
            }
            Self::Linear(LinearKind::Int8) if int8 => Extensions {
                int8: false,
                ..extensions
            },
            _ => return None,
        };
        Some(Isa(level, left))
    }
}

impl Proof {
    /// Of this processor, found out once.
    pub(super) fn of_this_processor() -> &'static Self {
        static PROOF: OnceLock<Proof> = OnceLock::new();
        PROOF.get_or_init(|| Self::find(Isa::available(), Subject::is_right))
    }

    /// Of all levels, the best one first. The portable one is the definition.
    fn find(levels: Vec<Isa>, is_right: impl Fn(Subject, Isa) -> bool) -> Self {
        let mut failed = Vec::new();
        for level in levels {
            let mut left = Some(level);
            while let Some(isa) = left {
                let wrong = |subject: &Subject| !is_right(*subject, isa);
                let wrong = Subject::ALL.into_iter().find(wrong);
                let Some(subject) = wrong.filter(|_| isa.0 != Level::Portable) else {
                    return Self { isa, failed };
                };
                failed.push(subject.path(isa));
                left = subject.without(isa);
            }
        }
        let isa = Isa::PORTABLE;
        Self { isa, failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any level but the portable one, with all extensions. None of it is computed with.
    fn all(level: Level) -> Isa {
        let extensions = Extensions {
            bf16: true,
            int8: true,
            tiles_bf16: true,
            tiles_int8: true,
        };
        Isa(level, extensions)
    }

    #[test]
    fn every_path_of_this_processor_computes_what_the_portable_one_does() {
        for isa in Isa::combinations() {
            for subject in Subject::ALL {
                assert!(subject.is_right(isa), "{subject:?} {isa:?}");
            }
        }
        assert!(Isa::failed().is_empty(), "{:?}", Isa::failed());
    }

    #[test]
    fn what_computes_wrongly_is_left_out_and_the_next_is_taken() {
        let Some(&best) = Isa::available().first() else {
            return;
        };
        if best == Isa::PORTABLE {
            return;
        }
        let levels = || vec![all(best.0), Isa::PORTABLE];
        let bf16 = Subject::Linear(LinearKind::Bf16);
        let int8 = Subject::Linear(LinearKind::Int8);

        if best.name() == "avx512" {
            let kinds = [LinearKind::Bf16, LinearKind::Int8];
            let names = kinds.map(|kind| kind.path(all(best.0)));
            assert_eq!(names, ["amx_bf16", "amx_int8"]);
        }

        let proof = Proof::find(levels(), |_, _| true);
        assert_eq!((proof.isa, proof.failed.len()), (all(best.0), 0));

        // Tiles alone.
        let proof = Proof::find(levels(), |what, isa| what != bf16 || !isa.1.tiles_bf16);
        assert!(proof.isa.1.bf16 && !proof.isa.1.tiles_bf16 && proof.isa.1.tiles_int8);
        assert_eq!(proof.failed.len(), 1);

        // Everything that multiplies bytes.
        let proof = Proof::find(levels(), |what, isa| {
            what != int8 || !(isa.1.tiles_int8 || isa.1.int8)
        });
        assert!(proof.isa.0 == best.0 && !proof.isa.1.int8 && !proof.isa.1.tiles_int8);
        assert_eq!(proof.failed.len(), 2);

        // Attention takes the extension that layers share with it along.
        let attention = Subject::Attention(Precision::Bf16);
        let proof = Proof::find(levels(), |what, isa| what != attention || !isa.has_bf16());
        assert!(!proof.isa.1.bf16 && !proof.isa.1.tiles_bf16 && proof.isa.1.tiles_int8);

        // A level that cannot add, and one that fails at everything.
        let fp32 = Subject::Linear(LinearKind::Fp32);
        for wrong in [&[fp32][..], &Subject::ALL] {
            let proof = Proof::find(levels(), |what, _| !wrong.contains(&what));
            assert_eq!(proof.isa, Isa::PORTABLE);
            assert_eq!(proof.failed.len(), 1, "{:?}", proof.failed);
        }
    }
}
