//! Output during a run: a line for each fault, and a progress line, which on a terminal stays at the bottom and in
//! a log comes four times a minute.

use std::io::{IsTerminal, Write, stdout};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Interval between two progress lines in a log.
const SELDOM: Duration = Duration::from_secs(15);

/// Clones write to the same place.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    terminal: bool,
    /// The progress line, and when it was last written to a log. Locked for each line, so that no two mix.
    progress: Arc<Mutex<(String, Instant)>>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self {
            terminal: stdout().is_terminal(),
            progress: Arc::new(Mutex::new((String::new(), Instant::now()))),
        }
    }

    /// Prints a permanent line.
    pub(crate) fn line(&self, text: &str) {
        let Ok(progress) = self.progress.lock() else {
            return;
        };
        // A failed write means that nobody reads the output.
        let _ = if self.terminal {
            write!(stdout(), "\r\x1b[K{text}\n{}", progress.0)
        } else {
            writeln!(stdout(), "{text}")
        };
        let _ = stdout().flush();
    }

    /// Shows the progress.
    pub(crate) fn progress(&self, text: String) {
        let Ok(mut progress) = self.progress.lock() else {
            return;
        };
        if self.terminal {
            let _ = write!(stdout(), "\r\x1b[K{text}");
        } else if progress.1.elapsed() >= SELDOM {
            let _ = writeln!(stdout(), "{text}");
            progress.1 = Instant::now();
        }
        progress.0 = text;
        let _ = stdout().flush();
    }

    /// Removes the progress line.
    pub(crate) fn done(&self) {
        if let Ok(mut progress) = self.progress.lock() {
            progress.0.clear();
            if self.terminal {
                let _ = write!(stdout(), "\r\x1b[K");
            }
        }
    }
}
