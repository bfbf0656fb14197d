//! The report as one HTML file: no network, no font, no script from elsewhere. Scripts add zooming and a crosshair; without
//! them, and on paper, everything is still there.

use super::scene::Ink;
use super::{page, svg};
use crate::model::facts::RunFacts;
use crate::model::gate::GateResult;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};

const TEMPLATE: &str = include_str!("../../assets/report/report.html");
const STYLE: &str = include_str!("../../assets/report/report.css");
const SCRIPT: &str = include_str!("../../assets/report/report.js");

/// Why there is no page: the template is wrong. It is compiled in and tested, so this is a bug.
#[derive(Debug, thiserror::Error)]
#[error("the report's template: {0}")]
pub struct HtmlError(#[from] minijinja::Error);

/// The whole file.
pub fn render(facts: &RunFacts, gates: &[GateResult]) -> Result<String, HtmlError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.add_template("report.html", TEMPLATE)?; // the name's ending switches escaping on
    let style = format!(
        "{STYLE}\n{}\n@media (prefers-color-scheme: dark) {{ @media screen {{ {} }} }}",
        svg::colours(Ink::light),
        svg::colours(Ink::dark)
    );
    let page = Value::from(Serde(page::build(facts, gates)));
    Ok(environment.get_template("report.html")?.render(context! { page => page, style => style, script => SCRIPT })?)
}
