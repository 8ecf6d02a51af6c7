//! The picture, on whatever it is drawn.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph, Row as Cells, Table};

use super::view::{COLUMNS, Row, View};

/// Widths of the columns.
const WIDTHS: [Constraint; 9] = [
    Constraint::Fill(1),
    Constraint::Length(11),
    Constraint::Length(10),
    Constraint::Length(11),
    Constraint::Length(9),
    Constraint::Length(8),
    Constraint::Length(8),
    Constraint::Length(8),
    Constraint::Length(21),
];
/// The line of the table's headings, and the two of its frame.
const AROUND_ROWS: usize = 3;

/// The lines that the whole picture takes.
pub(super) fn height(view: &View) -> u16 {
    let lines = view.heading.len() + AROUND_ROWS + view.rows.len() + 1;
    u16::try_from(lines).unwrap_or(u16::MAX)
}

pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let heading = u16::try_from(view.heading.len()).unwrap_or(u16::MAX);
    let parts = [Constraint::Length(heading), Constraint::Fill(1), Constraint::Length(1)];
    let [top, middle, bottom] = Layout::vertical(parts).areas(frame.area());
    let lines: Vec<Line<'_>> = view.heading.iter().map(|line| Line::from(line.as_str())).collect();
    frame.render_widget(Paragraph::new(lines), top);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let row = |Row(cells): &Row| Cells::new(cells.clone());
    let table = Table::new(view.rows.iter().map(row), WIDTHS)
        .header(Cells::new(COLUMNS).style(bold))
        .block(Block::new().borders(Borders::TOP | Borders::BOTTOM));
    frame.render_widget(table, middle);
    let last = match &view.trouble {
        Some(trouble) => Line::from(trouble.as_str()).style(bold),
        None => Line::from("q ends"),
    };
    frame.render_widget(Paragraph::new(last), bottom);
}
