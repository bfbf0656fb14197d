//! Which instruction set this machine has, and the functions of `math` and `dot` built for it.
//!
//! Asked once. `SOAKD_ISA=portable|avx2|vnni` lowers the choice (never raises it), for tests and for comparing; results
//! are the same bit for bit.

use super::dot;
use super::math;
use std::sync::OnceLock;

/// Instruction sets with code of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Whatever the compiler's baseline is.
    Portable,
    /// AVX2, FMA and F16C: x86-64-v3, every server since 2015 or so.
    Avx2,
    /// AVX2 and the 256-bit dot-product instructions (AVX-512 VL and VNNI): Ice Lake, Zen 4 and later.
    Vnni,
}

impl Isa {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Vnni => "vnni",
        }
    }

    /// The best that this machine has.
    #[must_use]
    pub fn detected() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                if has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni") {
                    return Isa::Vnni;
                }
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }

    /// All that this machine can run.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Vnni].into_iter().filter(|&isa| isa <= Isa::detected()).collect()
    }
}

/// The set in use.
#[must_use]
pub fn isa() -> Isa {
    static CHOSEN: OnceLock<Isa> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let detected = Isa::detected();
        let wished = match std::env::var("SOAKD_ISA").as_deref() {
            Ok("portable") => Isa::Portable,
            Ok("avx2") => Isa::Avx2,
            _ => detected,
        };
        wished.min(detected)
    })
}

/// Builds functions of `math` for AVX2 beside the portable ones, and picks one.
macro_rules! for_every_isa {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)?;)*) => {
        $(
            #[doc = concat!("`math::", stringify!($name), "` for this machine.")]
            pub fn $name($($arg: $ty),*) $(-> $out)? {
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx2,fma")]
                    fn avx2($($arg: $ty),*) $(-> $out)? {
                        math::$name($($arg),*)
                    }
                    if isa() >= Isa::Avx2 {
                        // SAFETY: `isa` says that this machine has AVX2 and FMA.
                        return unsafe { avx2($($arg),*) };
                    }
                }
                math::$name($($arg),*)
            }
        )*
    };
}

for_every_isa! {
    rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]);
    silu_times(gate: &mut [f32], up: &[f32]);
    rotate(heads: &mut [f32], head_width: usize, cos: &[f32], sin: &[f32]);
    attend(query: &[f32], keys: &[f32], values: &[f32], scores: &mut [f32], out: &mut [f32]);
    quantize(floats: &[f32], quants: &mut [i8], scales: &mut [f32], sums32: &mut [f32], sums16: &mut [f32]);
}

/// The rows kernel of `ty` for this machine (see [`dot::Rows`]).
#[must_use]
pub fn rows_kernel(ty: crate::engine::block::BlockType) -> dot::Rows {
    dot::kernel(ty, isa())
}
