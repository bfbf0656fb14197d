//! A picture as a short list of strokes, areas and texts in logical pixels: drawn once by `plot`, written out by `svg`
//! and `png`. Knows no data and no file format.

/// What a stroke means. The colours hang on it, so that light, dark and print are one decision each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ink {
    /// Behind everything.
    Ground,
    /// Grid lines.
    Grid,
    /// Titles and what must be read.
    Text,
    /// Tick labels and remarks.
    Dim,
    /// The median of the samples.
    Sample,
    /// From the smallest to the largest sample.
    Envelope,
    /// The fitted drift.
    Fit,
    /// Its interval.
    Band,
    /// What the tolerance allows.
    Tolerance,
    /// The room between the tolerance's edges.
    Allowed,
    /// Warm-up: shown, not judged.
    WarmUp,
    /// Nothing was watched.
    Gap,
    /// An event for the record.
    Info,
    /// An event that someone should know.
    Warning,
    /// An event that breaks a promise.
    Error,
    /// Good news.
    Good,
    /// A second, third and fourth line in one picture.
    Second,
    /// See `Second`.
    Third,
}

impl Ink {
    /// All of them, for style sheets.
    pub const ALL: [Ink; 18] = [
        Ink::Ground,
        Ink::Grid,
        Ink::Text,
        Ink::Dim,
        Ink::Sample,
        Ink::Envelope,
        Ink::Fit,
        Ink::Band,
        Ink::Tolerance,
        Ink::Allowed,
        Ink::WarmUp,
        Ink::Gap,
        Ink::Info,
        Ink::Warning,
        Ink::Error,
        Ink::Good,
        Ink::Second,
        Ink::Third,
    ];

    /// The class in SVG.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Ink::Ground => "i-ground",
            Ink::Grid => "i-grid",
            Ink::Text => "i-text",
            Ink::Dim => "i-dim",
            Ink::Sample => "i-sample",
            Ink::Envelope => "i-envelope",
            Ink::Fit => "i-fit",
            Ink::Band => "i-band",
            Ink::Tolerance => "i-tolerance",
            Ink::Allowed => "i-allowed",
            Ink::WarmUp => "i-warmup",
            Ink::Gap => "i-gap",
            Ink::Info => "i-info",
            Ink::Warning => "i-warning",
            Ink::Error => "i-error",
            Ink::Good => "i-good",
            Ink::Second => "i-second",
            Ink::Third => "i-third",
        }
    }

    /// Red, green, blue and opacity on white paper.
    #[must_use]
    pub fn light(self) -> (u8, u8, u8, f64) {
        match self {
            Ink::Ground => (255, 255, 255, 1.0),
            Ink::Grid => (226, 229, 234, 1.0),
            Ink::Text => (24, 28, 34, 1.0),
            Ink::Dim => (92, 100, 112, 1.0),
            Ink::Sample => (29, 78, 216, 1.0),
            Ink::Envelope => (29, 78, 216, 0.22),
            Ink::Fit => (194, 65, 12, 1.0),
            Ink::Band => (194, 65, 12, 0.16),
            Ink::Tolerance | Ink::Good => (4, 120, 87, 1.0),
            Ink::Allowed => (16, 185, 129, 0.07),
            Ink::WarmUp => (107, 114, 128, 0.12),
            Ink::Gap => (107, 114, 128, 0.2),
            Ink::Info => (107, 114, 128, 0.75),
            Ink::Warning => (180, 83, 9, 1.0),
            Ink::Error => (200, 30, 30, 1.0),
            Ink::Second => (124, 58, 237, 1.0),
            Ink::Third => (14, 116, 144, 1.0),
        }
    }

    /// The same on a dark screen.
    #[must_use]
    pub fn dark(self) -> (u8, u8, u8, f64) {
        match self {
            Ink::Ground => (19, 22, 27, 1.0),
            Ink::Grid => (45, 50, 58, 1.0),
            Ink::Text => (232, 235, 240, 1.0),
            Ink::Dim => (154, 163, 175, 1.0),
            Ink::Sample => (110, 160, 255, 1.0),
            Ink::Envelope => (110, 160, 255, 0.26),
            Ink::Fit => (251, 146, 60, 1.0),
            Ink::Band => (251, 146, 60, 0.2),
            Ink::Tolerance | Ink::Good => (52, 211, 153, 1.0),
            Ink::Allowed => (52, 211, 153, 0.08),
            Ink::WarmUp => (156, 163, 175, 0.14),
            Ink::Gap => (156, 163, 175, 0.24),
            Ink::Info => (156, 163, 175, 0.8),
            Ink::Warning => (251, 191, 36, 1.0),
            Ink::Error => (248, 113, 113, 1.0),
            Ink::Second => (167, 139, 250, 1.0),
            Ink::Third => (34, 211, 238, 1.0),
        }
    }
}

/// Where a text stands relative to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// The text starts there.
    Start,
    /// The text is centred there.
    Middle,
    /// The text ends there.
    End,
}

/// One thing to draw.
#[derive(Debug, Clone, PartialEq)]
pub enum Draw {
    /// A polyline of `width` logical pixels, dashed or not.
    Line {
        /// Corners.
        points: Vec<(f64, f64)>,
        /// What it means.
        ink: Ink,
        /// Stroke width.
        width: f64,
        /// Dashed?
        dashed: bool,
    },
    /// A filled polygon.
    Area {
        /// Corners.
        points: Vec<(f64, f64)>,
        /// What it means.
        ink: Ink,
        /// Told when pointed at; empty for none.
        hint: String,
    },
    /// A text whose baseline is at `y`.
    Text {
        /// Left, middle or right end.
        x: f64,
        /// Baseline.
        y: f64,
        /// What it says.
        text: String,
        /// Where it stands.
        anchor: Anchor,
        /// What it means.
        ink: Ink,
        /// Height of the letters' em, logical pixels.
        size: f64,
        /// Heavier?
        bold: bool,
    },
    /// What belongs to a plot's frame but is not its data: ticks and grid, replaced when a reader zooms.
    Axes {
        /// In order.
        items: Vec<Draw>,
    },
    /// A plot: drawn inside its frame and clipped to it. Its contents move together when a reader zooms.
    Plot {
        /// The frame.
        frame: Frame,
        /// What is in it.
        items: Vec<Draw>,
    },
}

/// A rectangle of the picture and the data that its edges stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Left edge, logical pixels.
    pub left: f64,
    /// Top edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
    /// Data at the left and the right edge.
    pub x: (f64, f64),
    /// Data at the bottom and the top edge.
    pub y: (f64, f64),
    /// What y measures.
    pub unit: super::scale::Unit,
    /// True if x is a moment (seconds since the epoch).
    pub timed: bool,
}

impl Frame {
    /// Logical pixels of a datum. May lie outside the frame, but never so far that a renderer would overflow.
    #[must_use]
    pub fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let fx = (x - self.x.0) / (self.x.1 - self.x.0);
        let fy = (y - self.y.0) / (self.y.1 - self.y.0);
        (self.left + fx.clamp(-1.0, 2.0) * self.width, self.top + (1.0 - fy.clamp(-20.0, 21.0)) * self.height)
    }
}

/// A whole picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Logical pixels.
    pub width: f64,
    /// Logical pixels.
    pub height: f64,
    /// What a screen reader says first.
    pub title: String,
    /// And then.
    pub description: String,
    /// In order, from back to front.
    pub items: Vec<Draw>,
}

/// Width of a text in a grotesque like the one that is embedded, logical pixels; within a tenth of the truth.
#[must_use]
pub fn text_width(text: &str, size: f64) -> f64 {
    let em: f64 = text
        .chars()
        .map(|c| match c {
            'i' | 'l' | 'j' | '.' | ',' | ':' | ';' | '\'' | '|' | ' ' | '!' | '1' | '·' => 0.30,
            'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '-' | '/' | '"' => 0.39,
            'm' | 'w' | 'M' | 'W' | '%' | '@' | '—' => 0.89,
            'A'..='Z' => 0.69,
            _ => 0.59,
        })
        .sum();
    em * size
}
