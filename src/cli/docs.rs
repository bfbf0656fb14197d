//! `soakd docs`: the documents of phase 3, from the database. Words and tables are `report::docs`'.

use super::gate::{self, Measured};
use super::{CannotStart, Done, Outcome};
use crate::model::bench::Expectation;
use crate::report::docs::{self, Sources, TEMPLATES};
use crate::report::gates;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Write the documents from the database; every figure names its run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd docs                                   nine documents into docs-out/, from the newest of all
  soakd docs 3 --out reports/
  soakd docs --write-templates my-templates/   the templates, to be changed
  soakd docs --templates my-templates/         ... and used

A template is a file with {{ fig(\"token_p95_ms\") }} where a figure stands, and {{ gate_table }} and the like for tables. \
What was not measured is written as \"not measured\".")]
pub struct Args {
    /// Which run, as `soakd runs` numbers them; the newest if left out
    run: Option<i64>,
    /// The database
    #[arg(long, value_name = "FILE", default_value = "soak.db")]
    db: PathBuf,
    /// Where to
    #[arg(long, value_name = "FOLDER", default_value = "docs-out")]
    out: PathBuf,
    /// Templates of your own; a document without one there is made from the template that ships
    #[arg(long, value_name = "FOLDER")]
    templates: Option<PathBuf>,
    /// Bounds of your own, as for `soakd gate`
    #[arg(long, value_name = "FILE")]
    gates: Option<PathBuf>,
    /// What you expect of each variant; the roadmap's if left out
    #[arg(long, value_name = "FILE")]
    expectations: Option<PathBuf>,
    /// Write the templates that ship into a folder, and end
    #[arg(long, value_name = "FOLDER")]
    write_templates: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectations {
    #[serde(default)]
    expect: Vec<Expectation>,
}

const EXPECTATIONS: &str = include_str!("../../gates/expectations.toml");

/// Reads, renders, writes.
pub fn execute(args: &Args) -> Done {
    if let Some(folder) = &args.write_templates {
        for (name, template) in TEMPLATES {
            write(folder, name, template)?;
        }
        println!("wrote {} templates into {}", TEMPLATES.len(), folder.display());
        return Ok(Outcome::Passed);
    }
    let sources = sources(args)?;
    let mut rendered = Vec::new();
    for (name, shipped) in TEMPLATES {
        let own = args.templates.as_ref().map(|folder| folder.join(name)).filter(|path| path.exists());
        let (label, template) = match &own {
            Some(path) => (path.display().to_string(), read(path)?),
            None => ((*name).to_owned(), (*shipped).to_owned()),
        };
        rendered.push((name, docs::render(&label, &template, &sources).map_err(CannotStart::because)?));
    }
    for (name, text) in &rendered {
        write(&args.out, name, text)?;
    }
    let picture = docs::picture(&sources);
    if let Some(svg) = &picture {
        write(&args.out, docs::PICTURE, svg)?;
    }
    let pictures = if picture.is_some() { format!(" and {}", docs::PICTURE) } else { String::new() };
    let (count, folder) = (rendered.len(), args.out.display());
    println!("wrote {count} documents{pictures} into {folder}; start with {}", TEMPLATES[0].0);
    Ok(Outcome::Passed)
}

fn sources(args: &Args) -> Result<Sources, CannotStart> {
    let Measured { run, bench, load } = Measured::read(&args.db, args.run)?;
    let asked = gate::asked(args.gates.as_deref(), run.as_ref())?;
    let mut sources = Sources {
        gates: Vec::new(),
        run,
        bench,
        load,
        expectations: match &args.expectations {
            Some(path) => expectations(&path.display().to_string(), &read(path)?)?,
            None => expectations("the roadmap's expectations", EXPECTATIONS)?,
        },
    };
    sources.gates = gates::judge(&sources.evidence(), &asked);
    Ok(sources)
}

fn expectations(name: &str, text: &str) -> Result<Vec<Expectation>, CannotStart> {
    let file: Expectations = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        CannotStart(format!(
            "{name}:{line}: {}; an entry is [[expect]] with variant, tokens_per_s and vram_bytes",
            e.message()
        ))
    })?;
    Ok(file.expect)
}

fn read(path: &Path) -> Result<String, CannotStart> {
    std::fs::read_to_string(path).map_err(|e| CannotStart(format!("cannot read {}: {e}", path.display())))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), CannotStart> {
    let path = folder.join(name);
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
    written.map_err(|e| CannotStart(format!("cannot write {}: {e}. Name another folder with --out", path.display())))
}
