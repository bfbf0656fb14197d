//! What a target is asked: prompts made from a seed with lengths from a distribution, or the lines of a JSONL file.
//!
//! The same number always gives the same request, whatever came before, so that answers can be compared over loops and
//! restarts.

use crate::model::run::Lengths;
use serde_json::{Value, json};
use std::path::Path;

/// Largest file of prompts.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Most prompts in one.
const PROMPTS_MAX: usize = 100_000;
/// Words that prompts are made of.
const WORDS: [&str; 16] = [
    "memory", "river", "seven", "green", "why", "engine", "night", "count", "letter", "stone", "under", "moving",
    "glass", "north", "answer", "slowly",
];

/// What is said to the model.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Plain text.
    Text(String),
    /// A chat's messages, as they are.
    Messages(Value),
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What is said.
    pub said: Said,
    /// Tokens to answer with, at most.
    pub answer_tokens: u32,
    /// Words in it: a count of tokens for servers that do not give one.
    pub words: i64,
}

/// Where requests come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompts {
    source: Source,
    seed: u64,
    count: u32,
    prompt_tokens: u32,
    answer_tokens: u32,
    lengths: Lengths,
}

#[derive(Debug, Clone, PartialEq)]
enum Source {
    Made,
    Lines(Vec<Line>),
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    /// `None`: only lengths are given, the words are made.
    said: Option<Said>,
    prompt_tokens: Option<u32>,
    answer_tokens: Option<u32>,
}

impl Prompts {
    /// `count` made prompts with lengths of this kind, up to `prompt_tokens` and `answer_tokens`.
    #[must_use]
    pub fn made(seed: u64, count: u32, prompt_tokens: u32, answer_tokens: u32, lengths: Lengths) -> Prompts {
        let (count, prompt_tokens, answer_tokens) = (count.max(1), prompt_tokens.max(1), answer_tokens.max(1));
        Prompts { source: Source::Made, seed, count, prompt_tokens, answer_tokens, lengths }
    }

    /// The same with what a file says instead. The error names file, line and remedy.
    pub fn with_file(mut self, path: &Path) -> Result<Prompts, String> {
        let name = path.display();
        let odd = |why: String| format!("{name}: {why}");
        let length = std::fs::metadata(path).map_err(|error| odd(error.to_string()))?.len();
        if length > FILE_BYTES_MAX {
            return Err(odd(format!("it is larger than {} MiB; take a sample of it", FILE_BYTES_MAX >> 20)));
        }
        let text = std::fs::read_to_string(path).map_err(|error| odd(error.to_string()))?;
        let lines = read_lines(&text).map_err(|(line, why)| format!("{name}:{line}: {why}"))?;
        self.count = u32::try_from(lines.len()).map_err(|_| odd("it has too many lines".to_owned()))?;
        self.source = Source::Lines(lines);
        Ok(self)
    }

    /// How many there are before they begin again.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The request for a prompt, from 0.
    #[must_use]
    pub fn request(&self, prompt: u32) -> Request {
        let mut dice = Dice::new(self.seed, prompt);
        let (longest_prompt, longest_answer) = (self.prompt_tokens, self.answer_tokens);
        let (prompt_tokens, answer_tokens) =
            (dice.length(longest_prompt, self.lengths), dice.length(longest_answer, self.lengths));
        let line = match &self.source {
            Source::Made => None,
            Source::Lines(lines) => lines.get(prompt as usize),
        };
        let Some(line) = line else { return made(&mut dice, prompt_tokens, answer_tokens) };
        let answer_tokens = line.answer_tokens.unwrap_or(answer_tokens);
        match &line.said {
            None => made(&mut dice, line.prompt_tokens.unwrap_or(prompt_tokens), answer_tokens),
            Some(said) => Request { said: said.clone(), answer_tokens, words: words_of(said) },
        }
    }
}

fn made(dice: &mut Dice, prompt_tokens: u32, answer_tokens: u32) -> Request {
    let words = (0..prompt_tokens).map(|_| WORDS[dice.below(WORDS.len() as u64) as usize]);
    let said = Said::Text(words.collect::<Vec<_>>().join(" "));
    Request { said, answer_tokens, words: i64::from(prompt_tokens) }
}

fn words_of(said: &Said) -> i64 {
    let count = |text: &str| text.split_whitespace().count() as i64;
    match said {
        Said::Text(text) => count(text),
        Said::Messages(messages) => {
            let all = messages.as_array().into_iter().flatten();
            all.filter_map(|message| message["content"].as_str()).map(count).sum()
        }
    }
}

fn read_lines(text: &str) -> Result<Vec<Line>, (usize, String)> {
    let mut lines = Vec::new();
    for (at, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        if lines.len() >= PROMPTS_MAX {
            return Err((at + 1, format!("more than {PROMPTS_MAX} prompts; take a sample of them")));
        }
        lines.push(read_line(text).map_err(|why| (at + 1, why))?);
    }
    if lines.is_empty() {
        return Err((1, "there is no prompt in it; a line is {\"prompt\": \"...\", \"answer_tokens\": 64}".to_owned()));
    }
    Ok(lines)
}

fn read_line(text: &str) -> Result<Line, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("this line is no JSON: {error}"))?;
    let Some(object) = value.as_object() else {
        return Err("this line is no JSON object; write {\"prompt\": \"...\"}".to_owned());
    };
    let length = |keys: &[&str]| -> Result<Option<u32>, String> {
        let Some((key, value)) = keys.iter().find_map(|key| Some((key, object.get(*key)?))) else { return Ok(None) };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=1_000_000).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(format!("{key:?} is {value}; write a whole number from 1 to 1000000")),
        }
    };
    let said = match (object.get("prompt"), object.get("messages")) {
        (Some(Value::String(text)), None) => Some(Said::Text(text.clone())),
        (None, Some(messages @ Value::Array(all))) if !all.is_empty() => Some(Said::Messages(messages.clone())),
        (None, None) => None,
        (Some(_), Some(_)) => return Err("\"prompt\" and \"messages\" are both given; write one of them".to_owned()),
        _ => return Err("\"prompt\" is text, \"messages\" a list that is not empty".to_owned()),
    };
    let (prompt_tokens, answer_tokens) = (length(&["prompt_tokens"])?, length(&["answer_tokens", "max_tokens"])?);
    if said.is_none() && prompt_tokens.is_none() && answer_tokens.is_none() {
        return Err(
            "none of \"prompt\", \"messages\", \"prompt_tokens\" and \"answer_tokens\" is in this line".to_owned()
        );
    }
    Ok(Line { said, prompt_tokens, answer_tokens })
}

/// A random sequence of its own for each prompt.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, prompt: u32) -> Dice {
        Dice(seed ^ (u64::from(prompt) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound.max(1)
    }

    /// In (0, 1).
    fn unit(&mut self) -> f64 {
        (self.below(1 << 30) as f64 + 0.5) / f64::from(1u32 << 30)
    }

    fn length(&mut self, longest: u32, lengths: Lengths) -> u32 {
        match lengths {
            Lengths::Fixed => longest,
            Lengths::Uniform => {
                let least = longest.div_ceil(4);
                least + self.below(u64::from(longest - least) + 1) as u32
            }
            // Box and Muller. The median is a quarter of the longest and one sigma a factor of e^0.8 = 2.2, so that one in 24
            // is cut off at the longest: many short ones and a few long ones, as people ask.
            Lengths::Lognormal => {
                let normal = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
                (f64::from(longest) / 4.0 * (0.8 * normal).exp()).round().clamp(1.0, f64::from(longest)) as u32
            }
        }
    }
}

/// The body's part of a request: `prompt` or `messages`, whichever the path wants.
#[must_use]
pub fn in_body(said: &Said, chat: bool) -> (&'static str, Value) {
    match (said, chat) {
        (Said::Text(text), false) => ("prompt", json!(text)),
        (Said::Text(text), true) => ("messages", json!([{ "role": "user", "content": text }])),
        (Said::Messages(messages), true) => ("messages", messages.clone()),
        (Said::Messages(messages), false) => {
            let all = messages.as_array().into_iter().flatten().filter_map(|message| message["content"].as_str());
            ("prompt", json!(all.collect::<Vec<_>>().join("\n")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(kind: Lengths) -> Vec<i64> {
        let prompts = Prompts::made(7, 4_000, 400, 64, kind);
        (0..4_000).map(|n| prompts.request(n).words).collect()
    }

    #[test]
    fn lengths_follow_their_distribution() {
        assert!(lengths(Lengths::Fixed).iter().all(|n| *n == 400));
        let uniform = lengths(Lengths::Uniform);
        let mean = uniform.iter().sum::<i64>() as f64 / 4_000.0;
        assert!(uniform.iter().all(|n| (100..=400).contains(n)) && (mean - 250.0).abs() < 6.0, "mean {mean}");
        let mut many = lengths(Lengths::Lognormal);
        many.sort_unstable();
        let (median, cut) = (many[2_000], many.iter().filter(|n| **n == 400).count());
        assert!((90..=110).contains(&median), "median {median}");
        assert!((100..=240).contains(&cut), "{cut} of 4000 at the longest; one in 24 is expected");
        assert!(many[400] > 20 && many[400] < 60, "a tenth is below {}", many[400]);
    }

    #[test]
    fn a_number_always_gives_the_same_request() {
        let one = Prompts::made(1, 8, 32, 64, Lengths::Uniform);
        assert_eq!(one.request(5), one.clone().request(5));
        assert_ne!(one.request(5), one.request(6));
        assert_ne!(one.request(5), Prompts::made(2, 8, 32, 64, Lengths::Uniform).request(5));
    }

    #[test]
    fn a_file_gives_texts_messages_or_lengths() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("prompts.jsonl");
        let text = "{\"prompt\": \"why not\", \"max_tokens\": 3}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"a b c\"}]}\n\
                    {\"prompt_tokens\": 9, \"answer_tokens\": 2}\n";
        std::fs::write(&path, text).expect("written");
        let prompts = Prompts::made(1, 99, 32, 64, Lengths::Fixed).with_file(&path).expect("good");
        assert_eq!(prompts.count(), 3);
        let first = prompts.request(0);
        assert_eq!((first.said.clone(), first.answer_tokens, first.words), (Said::Text("why not".into()), 3, 2));
        assert_eq!(in_body(&first.said, true).1[0]["content"], "why not");
        let second = prompts.request(1);
        assert_eq!((second.words, second.answer_tokens), (3, 64));
        assert_eq!(in_body(&second.said, false), ("prompt", json!("a b c")));
        assert_eq!((prompts.request(2).words, prompts.request(2).answer_tokens), (9, 2));
    }

    #[test]
    fn a_bad_line_is_named_with_its_remedy() {
        let cases = [
            ("", 1, "there is no prompt"),
            ("{\"prompt\": \"a\"}\n{\"prompt\": ", 2, "no JSON"),
            ("[1]", 1, "no JSON object"),
            ("{\"prompt\": 7}", 1, "\"prompt\" is text"),
            ("{\"prompt\": \"a\", \"messages\": []}", 1, "write one of them"),
            ("{\"text\": \"a\"}", 1, "none of"),
            ("{\"prompt\": \"a\", \"max_tokens\": 0}", 1, "from 1 to 1000000"),
        ];
        for (text, line, says) in cases {
            let (at, why) = read_lines(text).expect_err(text);
            assert!(at == line && why.contains(says), "{text:?}: {at} {why}");
        }
    }
}
