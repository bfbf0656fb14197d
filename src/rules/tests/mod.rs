//! Tests of the rules: parsing, and the book over virtual time.

mod parsing;
