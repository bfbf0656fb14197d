//! What an OpenAI-compatible server streams, as tokens: lines of events, one JSON object each.

use super::prompts::{self, Request};
use serde_json::{Value, json};

/// Longest line of a stream.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Which of the two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `/completions`.
    Completion,
    /// `/chat/completions`.
    Chat,
}

impl Style {
    /// Path below the base.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Style::Completion => "/completions",
            Style::Chat => "/chat/completions",
        }
    }

    /// A greedy, streaming request.
    #[must_use]
    pub fn body(self, model: &str, request: &Request, seed: u64) -> String {
        let mut body = json!({
            "model": model, "max_tokens": request.answer_tokens, "temperature": 0, "seed": seed & 0x7fff_ffff, "stream": true,
            "stream_options": { "include_usage": true },
        });
        let (key, said) = prompts::in_body(&request.said, self == Style::Chat);
        body[key] = said;
        body.to_string()
    }
}

/// One thing that a stream said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A piece of the answer: one token, as these servers stream.
    Token(String),
    /// The server's own count: prompt and answer.
    Usage {
        /// Tokens of the prompt.
        prompt: i64,
        /// Tokens of the answer.
        answer: i64,
    },
    /// `[DONE]`.
    Done,
    /// An error in the middle of the stream.
    Error(String),
}

/// Bytes in, events out.
#[derive(Debug, Default)]
pub struct Events {
    line: Vec<u8>,
}

impl Events {
    /// Takes bytes as they come; gives what was said in the lines that are whole. The error: no such stream.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Said>, String> {
        let mut said = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                said.extend(read(String::from_utf8_lossy(&line).trim())?);
            } else if self.line.len() >= LINE_BYTES_MAX {
                return Err(format!("a line of more than {} KiB is no stream of tokens", LINE_BYTES_MAX >> 10));
            } else {
                self.line.push(byte);
            }
        }
        Ok(said)
    }
}

fn read(line: &str) -> Result<Vec<Said>, String> {
    let Some(data) = line.strip_prefix("data:").map(str::trim) else { return Ok(vec![]) }; // comments, event names
    if data == "[DONE]" {
        return Ok(vec![Said::Done]);
    }
    let value: Value = serde_json::from_str(data).map_err(|e| format!("an event that is no JSON: {e}"))?;
    if let Some(error) = value.get("error").filter(|e| !e.is_null()) {
        let message = error.get("message").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned);
        return Ok(vec![Said::Error(message.chars().take(300).collect())]);
    }
    let mut said = Vec::new();
    let choice = &value["choices"][0];
    let delta = &choice["delta"];
    // Models that think aloud first do so under one of two names.
    let text = [&choice["text"], &delta["content"], &delta["reasoning_content"], &delta["reasoning"]];
    if let Some(text) = text.iter().filter_map(|t| t.as_str()).find(|t| !t.is_empty()) {
        said.push(Said::Token(text.to_owned()));
    }
    if let (Some(prompt), Some(answer)) =
        (value["usage"]["prompt_tokens"].as_i64(), value["usage"]["completion_tokens"].as_i64())
    {
        said.push(Said::Usage { prompt, answer });
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_errors_and_the_end() {
        let stream = "data: {\"choices\":[{\"text\":\"a\"}]}\r\n\r\n: comment\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n\
                      data: {\"choices\":[{\"delta\":{\"content\":null,\"reasoning_content\":\"c\"}}]}\n\
                      data: {\"choices\":[{\"delta\":{\"content\":\"\",\"reasoning\":\"d\"}}]}\n\
                      data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\
                      data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\
                      data: {\"error\":{\"message\":\"out of memory\"}}\ndata: [DONE]\n";
        for step in 1..40 {
            let mut events = Events::default();
            let said: Vec<Said> =
                stream.as_bytes().chunks(step).flat_map(|c| events.push(c).expect("a stream")).collect();
            assert_eq!(
                said,
                [
                    Said::Token("a".into()),
                    Said::Token("b".into()),
                    Said::Token("c".into()),
                    Said::Token("d".into()),
                    Said::Usage { prompt: 3, answer: 2 },
                    Said::Error("out of memory".into()),
                    Said::Done
                ]
            );
        }
    }

    #[test]
    fn what_is_no_stream_is_an_error() {
        assert!(Events::default().push(b"data: <html>\n").is_err());
        assert!(Events::default().push(&vec![b'x'; 2 << 20]).is_err());
    }
}
