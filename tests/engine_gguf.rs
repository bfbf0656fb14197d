//! Files that are no models, or damaged ones: each refused with a message that names file, place and remedy.

use proptest::prelude::*;
use soakd::engine::gguf::parse;
use soakd::engine::{EngineError, LoadOptions, Variant, load, synth};

fn tiny() -> Vec<u8> {
    let mut bytes = Vec::new();
    synth::write_gguf("tiny", Variant::Q4_K, 1, &mut bytes).unwrap();
    bytes
}

/// What loading a file of these bytes says.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let options = LoadOptions { model: path.display().to_string(), ..LoadOptions::default() };
    let message = load(&options).err().expect("a refusal").to_string();
    assert!(message.contains("model.gguf"), "does not name the file: {message}");
    message
}

/// `bytes` with the first occurrence of `from` replaced by `to`, of the same length.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).expect("what is to be replaced");
    let mut out = bytes.to_vec();
    out[at..at + to.len()].copy_from_slice(to);
    out
}

/// The value that follows a key and its type, overwritten.
fn with_u32(bytes: &[u8], key: &str, value: u32) -> Vec<u8> {
    let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).expect("the key") + key.len() + 4;
    let mut out = bytes.to_vec();
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
    out
}

#[test]
fn each_fault_has_its_message() {
    let good = tiny();
    let version = |version: u32| [&b"GGUF"[..], &version.to_le_bytes(), &good[8..]].concat();
    let count = |at: usize, count: u64| [&good[..at], &count.to_le_bytes(), &good[at + 8..]].concat();
    let type_of_first = b"token_embd.weight".len() + 4 + 16; // dimension count, two dimensions, then the type
    let at = good.windows(17).position(|window| window == b"token_embd.weight").unwrap() + type_of_first;
    let typed = |id: u32| [&good[..at], &id.to_le_bytes(), &good[at + 4..]].concat();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("nothing", vec![], &["is empty"]),
        ("another file", b"hello world, this is no model".to_vec(), &["no GGUF file", "GGUF"]),
        ("a pointer", b"version https://git-lfs.github.com/spec/v1".to_vec(), &["git lfs pull"]),
        ("a web page", b"<!DOCTYPE html><html>".to_vec(), &["web page"]),
        ("only the magic", b"GGUF".to_vec(), &["truncated", "version"]),
        ("version 1", version(1), &["version 1", "2 and 3"]),
        ("version 9", version(9), &["version 9"]),
        ("big-endian", version(3_u32.swap_bytes()), &["big-endian"]),
        ("absurd tensors", count(8, u64::MAX), &["tensor count", "18446744073709551615"]),
        ("absurd keys", count(16, 1 << 40), &["metadata count"]),
        ("cut in the header", good[..200].to_vec(), &["truncated"]),
        ("cut in the data", good[..good.len() - 4096].to_vec(), &["tensor", "truncated", "download"]),
        ("an unknown type", typed(77), &["token_embd.weight", "type 77", "Q4_K"]),
        ("a type not run", typed(16), &["token_embd.weight", "IQ2_XXS"]),
        (
            "another architecture",
            replaced(&good, b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2"),
            &["qwen2", "llama"],
        ),
        ("a missing tensor", replaced(&good, b"blk.1.ffn_up.weight", b"blk.1.ffn_oo.weight"), &["blk.1.ffn_oo.weight"]),
        ("a tensor twice", replaced(&good, b"blk.1.ffn_up.weight", b"blk.0.ffn_up.weight"), &["blk.0.ffn_up", "twice"]),
        ("no layers", with_u32(&good, "llama.block_count", 0), &["llama.block_count"]),
        ("absurd layers", with_u32(&good, "llama.block_count", 4000), &["llama.block_count", "4000"]),
        ("heads that do not divide", with_u32(&good, "llama.attention.head_count_kv", 3), &["head_count_kv", "3"]),
        ("another width", with_u32(&good, "llama.embedding_length", 512), &["token_embd.weight", "shape"]),
        ("a strange rotation", with_u32(&good, "llama.rope.dimension_count", 63), &["dimension_count"]),
    ];
    for (name, bytes, expected) in cases {
        let message = refusal(&bytes);
        for part in expected {
            assert!(message.contains(part), "{name}: {part:?} is not in: {message}");
        }
    }
}

#[test]
fn folders_and_missing_files_are_named() {
    for (model, expected) in [("/", "regular file"), ("/no/such/model.gguf", "No such file")] {
        let message = load(&LoadOptions { model: model.into(), ..LoadOptions::default() }).err().unwrap().to_string();
        assert!(message.contains(model) && message.contains(expected), "{message}");
    }
}

#[test]
fn a_cache_that_does_not_fit_is_refused_before_it_is_allocated() {
    let model = "synthetic:22b".to_string();
    let options = LoadOptions { model, slots: 4096, context_tokens: Some(32_768), ..LoadOptions::default() };
    let error = load(&options).err().unwrap();
    assert!(matches!(error, EngineError::Memory { .. }), "{error}");
}

/// The header and a little of the data: small enough to damage thousands of times.
fn head() -> Vec<u8> {
    let good = tiny();
    let header = parse("tiny", &good).unwrap();
    good[..header.data_start].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is overwritten, the answer is a header or an error, and comes without a panic or a great allocation.
    #[test]
    fn damaged_headers_do_no_harm(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12), cut in any::<prop::sample::Index>(), cutting in any::<bool>()) {
        let mut bytes = head();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cutting {
            let length = cut.index(bytes.len());
            bytes.truncate(length);
        }
        if let Err(error) = parse("fuzz.gguf", &bytes) {
            prop_assert!(error.to_string().contains("fuzz.gguf"));
        }
    }

    /// Any bytes after the magic.
    #[test]
    fn noise_does_no_harm(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let bytes = [&b"GGUF\x03\0\0\0"[..], &noise].concat();
        prop_assert!(parse("noise.gguf", &bytes).is_err() || bytes.len() >= 24);
    }
}
