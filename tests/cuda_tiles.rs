//! What needs no GPU of the CUDA back end: the tiles, the choice of kernels, and the refusal where there is no driver.
//!
//! The emulation below follows `Tile<T>::run` in `kernels/tiles.cuh` step by step (which bits go into which half of
//! which fragment, which chain, which factor) and multiplies out in f64. If the layout and the fragments agree, every
//! weight comes out as the CPU's definition has it.

use soakd::engine::block::{BlockType, dequantize};
use soakd::engine::cuda::check::{self, STEP_BYTES, StepLayout};
use soakd::engine::cuda::{self, Path, tiles};
use soakd::engine::synth::Generator;
use soakd::engine::weights::Model;
use soakd::engine::{Backend, LoadOptions, Variant, load};

const TILED: [BlockType; 6] =
    [BlockType::Q2_K, BlockType::Q3_K, BlockType::Q4_K, BlockType::Q5_K, BlockType::Q6_K, BlockType::Q8_0];

fn half(bits: u32) -> f64 {
    half::f16::from_bits(bits as u16).to_f64()
}

fn word(tile: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(tile[at..at + 4].try_into().expect("four bytes"))
}

fn half_word(tile: &[u8], at: usize) -> u32 {
    u32::from(u16::from_le_bytes(tile[at..at + 2].try_into().expect("two bytes")))
}

/// A shift that may be to the left.
fn shift(v: u32, by: i32) -> u32 {
    if by >= 0 { v >> by } else { v << -by }
}

/// The four columns 4m..4m+3 of a step: low and high half of the first pair and of the second.
fn columns(first: u32, second: u32) -> [u32; 4] {
    [first & 0xffff, first >> 16, second & 0xffff, second >> 16]
}

/// A step's fragments as integers in units of the chain, for a lane's lower (0) or upper (1) row.
fn quants(ty: BlockType, tile: &[u8], lane: usize, row: usize, m: usize) -> [f64; 4] {
    let value = |masked: [u32; 4], chain: f64| masked.map(|bits| half(bits) * 16_777_216.0 * chain);
    match ty {
        BlockType::Q4_K | BlockType::Q5_K | BlockType::Q6_K => {
            let i = m / 2; // the word; even steps are its low nibbles
            let w = word(tile, (i / 4 * 2 + row) * 512 + lane * 16 + i % 4 * 4);
            let high = m % 2 == 1;
            let (mask, chain) = if high { (0x00f0_00f0, 0.0625) } else { (0x000f_000f, 1.0) };
            let (mut first, mut second) = (w & mask, (w >> 8) & mask);
            if ty == BlockType::Q5_K {
                let h = word(tile, 2048 + lane * 16 + row * 8 + i / 4 * 4);
                let by = [-4, -2, 4, 6][i % 4];
                let mask = if high { 0x0100_0100 } else { 0x0010_0010 };
                first |= shift(h, by) & mask;
                second |= shift(h, by + 1) & mask;
            }
            if ty == BlockType::Q6_K {
                let h = word(tile, 2048 + row * 512 + lane * 16 + i / 2 * 4);
                let by = [-4, 4][i % 2];
                let mask = if high { 0x0300_0300 } else { 0x0030_0030 };
                first |= shift(h, by) & mask;
                second |= shift(h, by + 2) & mask;
            }
            value(columns(first, second), chain)
        }
        BlockType::Q2_K | BlockType::Q3_K => {
            let (v, p) = (m / 4, m % 4);
            let w = word(tile, row * 512 + lane * 16 + v * 4);
            let mask = 0x0003_0003 << (2 * p);
            let (mut first, mut second) = (w & mask, (w >> 8) & mask);
            if ty == BlockType::Q3_K {
                let h = word(tile, 1024 + lane * 16 + row * 8 + v / 2 * 4);
                let (up, mask) = (2 - (v as u32 & 1), 0x0004_0004 << (2 * p));
                first |= (h << up) & mask;
                second |= (h >> (8 - up)) & mask;
            }
            value(columns(first, second), 0.25_f64.powi(p as i32))
        }
        _ => {
            let w = word(tile, (row * 4 + m / 4) * 512 + lane * 16 + m % 4 * 4);
            [0, 8, 16, 24].map(|by| f64::from(w >> by & 255) - 128.0)
        }
    }
}

/// Scale and minimum of a lane's sub-block that holds its column `k` (0..64), all factors applied.
fn scale(ty: BlockType, tile: &[u8], lane: usize, row: usize, k: usize) -> (f64, f64) {
    let g = lane / 4;
    match ty {
        BlockType::Q4_K | BlockType::Q5_K => {
            let at = if ty == BlockType::Q4_K { 2048 } else { 2560 };
            let (w, h) = (word(tile, at + lane * 4), half_word(tile, at + 128 + lane * 2));
            let which = row * 2 + k / 32;
            let minimum = [w >> 24 & 63, h & 63, h >> 6 & 63, w >> 30 | h >> 12 << 2][which];
            let d = word(tile, at + 192 + g * 8 + row * 4);
            (half(d & 0xffff) * f64::from(w >> (6 * which) & 63), half(d >> 16) * f64::from(minimum))
        }
        BlockType::Q6_K => {
            let code = f64::from(tile[3072 + row * 128 + lane * 4 + k / 16]) - 128.0;
            let d = half(half_word(tile, 3328 + g * 4 + row * 2)) * code;
            (d, 32.0 * d)
        }
        BlockType::Q2_K => {
            let code = tile[1024 + row * 128 + lane * 4 + k / 16];
            let d = word(tile, 1280 + g * 8 + row * 4);
            (half(d & 0xffff) * f64::from(code & 15), half(d >> 16) * f64::from(code >> 4))
        }
        BlockType::Q3_K => {
            let (low, high) = (word(tile, 1536 + lane * 4), half_word(tile, 1664 + lane * 2));
            let codes = match row {
                0 => (low & 0x0f0f_0f0f) | (high & 0x3030) | (high << 14 & 0x3030_0000),
                _ => (low >> 4 & 0x0f0f_0f0f) | (high << 4 & 0x3030) | (high << 18 & 0x3030_0000),
            };
            let code = f64::from(codes >> (8 * (k / 16)) & 255) - 32.0;
            let d = half(half_word(tile, 1728 + g * 4 + row * 2)) * code;
            (d, 4.0 * d)
        }
        _ => (half(half_word(tile, 4096 + lane * 8 + row * 4 + k / 32 * 2)), 0.0),
    }
}

#[test]
fn a_warp_gets_out_of_a_tile_what_the_file_has_for_every_type() {
    for ty in TILED {
        for (rows, supers, stride, offset) in [(128, 2, 1, 0), (150, 1, 1, 0), (64, 2, 2, 1)] {
            let cols = 256 * supers;
            let mut bytes = vec![0; rows * ty.row_bytes(cols as u64).expect("whole blocks") as usize];
            Generator::new(99, "blk.0.attn_v.weight", ty, cols, 2).fill(0, &mut bytes);
            let mut exact = vec![0.0; rows * cols];
            dequantize(ty, &bytes, &mut exact);
            let packed = tiles::pack(ty, rows, cols, &bytes, stride, offset);
            let size = tiles::tile_bytes(ty);
            for group in 0..rows.div_ceil(16) {
                let to = group * stride + offset;
                for at in 0..supers {
                    let tile = &packed[(to * supers + at) * size..][..size];
                    check_tile(ty, tile, &exact, rows, cols, group * 16, at * 256);
                }
            }
        }
    }
}

fn check_tile(ty: BlockType, tile: &[u8], exact: &[f32], rows: usize, cols: usize, first_row: usize, first_col: usize) {
    for lane in 0..32 {
        for row in 0..2 {
            for k in 0..64 {
                let r = first_row + lane / 4 + 8 * row;
                let (d, minimum) = scale(ty, tile, lane, row, k);
                let got = d * quants(ty, tile, lane, row, k / 4)[k % 4] - minimum;
                let expected =
                    if r < rows { f64::from(exact[r * cols + first_col + 64 * (lane % 4) + k]) } else { 0.0 };
                let size = d.abs() * 64.0 + minimum.abs();
                assert!(
                    (got - expected).abs() <= 1e-6 * size,
                    "{ty} row {r} lane {lane} k {k}: {got}, {expected} in the file"
                );
            }
        }
    }
}

#[test]
fn a_tile_has_the_bytes_of_its_blocks() {
    for (ty, bytes) in TILED.into_iter().zip([1344, 1760, 2304, 2816, 3360, 4352]) {
        assert_eq!(tiles::tile_bytes(ty), bytes, "{ty}");
    }
}

fn device(compute: (i32, i32)) -> cuda::DeviceFacts {
    cuda::DeviceFacts {
        ordinal: 0,
        name: "a device".into(),
        compute,
        multiprocessors: 132,
        shared_bytes_max: 232_448,
        driver_version: 12_040,
    }
}

#[test]
fn the_fastest_kernels_that_can_run_a_model_are_chosen_and_the_reason_is_given() {
    let big = Model::synthetic("8b", Variant::Q5_K_M, 1).expect("a shape");
    let tiny = Model::synthetic("tiny", Variant::Q4_K, 1).expect("a shape");
    assert_eq!(Path::choose(&device((9, 0)), &big), (Path::Persistent, None), "Hopper, heads of 128");
    assert_eq!(Path::choose(&device((12, 0)), &big).0, Path::Persistent, "Blackwell compiles the same PTX");
    let (path, why) = Path::choose(&device((8, 6)), &big);
    assert_eq!((path, why.as_deref()), (Path::Plain, Some("compute capability 8.6 is below 9.0")));
    let (path, why) = Path::choose(&device((9, 0)), &tiny);
    assert_eq!((path, why.as_deref()), (Path::Plain, Some("heads of 64 floats, 64 rotated; it takes 128")));
    let too_old = cuda::fastest_path(&device((7, 0))).expect_err("Volta");
    assert!(too_old.contains("7.5"), "{too_old}");
}

/// What `step_layout` of a PTX file stores, in order.
fn step_layout(arch: &str) -> StepLayout {
    let path = format!("{}/kernels/ptx/step.{arch}.ptx", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (_, body) = text.split_once(".entry step_layout(").expect("the kernel that reports sizes");
    let body = body.split('}').next().expect("a body");
    let constants = body.lines().filter_map(|line| line.trim().strip_prefix("mov.u32"));
    let value = |line: &str| line.split([',', ';']).nth(1).and_then(|text| text.trim().parse().ok());
    let sizes: Vec<u32> = constants.map(|line| value(line).expect("a constant")).collect();
    let [step_bytes, common_bytes, one, eight, sixteen, threads] = sizes[..] else { panic!("{sizes:?}") };
    StepLayout { step_bytes, common_bytes, red_bytes: [one, eight, sixteen], threads }
}

#[test]
fn host_and_kernel_mean_the_same_memory_and_the_ring_fits_every_type() {
    // Compute capability 9.0: 227 KiB of shared memory a block, 132 multiprocessors, or 114.
    const SHARED_MAX: usize = 227 << 10;
    for arch in ["compute_90a", "compute_90"] {
        let layout = step_layout(arch);
        assert_eq!(layout.step_bytes as usize, STEP_BYTES, "{arch}: the PTX is of another source");
        for (shape, multiprocessors) in [("8b", 132), ("8b", 114), ("22b", 132), ("22b", 114)] {
            for variant in Variant::ALL {
                let model = Model::synthetic(shape, variant, 1).expect("a shape");
                let largest =
                    model.tensors[1..].iter().chain([model.head()]).filter(|tensor| tiles::has_tiles(tensor.ty));
                let stage = 8 * largest.map(|tensor| tiles::tile_bytes(tensor.ty)).max().expect("a matrix");
                for (depth, bytes) in check::rings(&model, multiprocessors, SHARED_MAX, &layout) {
                    // What is on its way takes so many stages; the warps must have another to work on. (Q8_0 at 16 columns has three
                    // in all, two of them on their way; how fast that is: kernels/NOTES.md.)
                    let on_their_way = (cuda::Tuning::default().window_bytes as usize).div_ceil(stage);
                    assert!(
                        depth > on_their_way,
                        "{arch} {shape} {variant}: a ring of {depth}, {on_their_way} on their way"
                    );
                    assert!(bytes <= SHARED_MAX, "{arch} {shape} {variant}: {bytes} bytes of shared memory");
                    assert!(
                        depth == 32 || bytes + stage + 256 > SHARED_MAX,
                        "{shape} {variant}: {bytes}, room for more"
                    );
                }
            }
        }
    }
}

#[test]
fn without_a_driver_the_engine_says_so_and_names_the_way_out() {
    if cuda::devices().is_ok() {
        return; // there is one: cuda_device.rs runs on it
    }
    let options =
        LoadOptions { model: "synthetic:tiny".into(), backend: Backend::Cuda { device: 0 }, ..LoadOptions::default() };
    let message = load(&options).map(|_| ()).expect_err("no driver").to_string();
    assert!(message.contains("CUDA driver") && message.contains("--backend cpu"), "{message}");
}
