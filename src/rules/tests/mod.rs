//! Tests of the rules: parsing, and the book over virtual time.

mod book;
mod parsing;
