//! Whether a connection carries more than a handshake.

use std::time::Instant;

use futures_util::future::join;

use super::cause::Cause;
use super::shake::Way;
use super::sheet::Sheet;
use super::visit::{Moved, Visit, VisitError};

/// Bytes that are moved each way: enough for packets of full size …
const SHORT: usize = 64 * 1024;
/// … or for a limit to be felt.
const LONG: usize = 2 * 1024 * 1024;

/// Moves bytes both ways. The connection goes on, or another one that carries more.
pub(super) async fn examine(
    sheet: &mut Sheet<'_>,
    mut visit: Visit,
    way: &mut Way,
    is_long: bool,
) -> Option<Visit> {
    let bytes = if is_long { LONG } else { SHORT };
    let start = Instant::now();
    let (Moved { sent, received }, error) = match visit.transfer(bytes).await {
        Ok(()) => {
            let (kib, s) = (bytes / 1_024, start.elapsed().as_secs_f64());
            sheet.ok("transfer", format!("{kib} KiB each way in {s:.2} s"));
            return Some(visit);
        }
        Err(failed) => failed,
    };
    let what = format!("ends after {sent} bytes out and {received} bytes in: {error}");
    let is_silent = matches!(error, VisitError::Silent);
    if is_silent && way.segment_bytes.is_none() {
        let moves = |way: Way| async move {
            let mut visit = Visit::new(way.dial().await.ok()?);
            visit.transfer(bytes).await.ok().map(|()| visit)
        };
        // The same once more: what passes then was not too large.
        let (same, smaller) = join(moves(way.clone()), way.smaller(moves)).await;
        if let Some(visit) = same {
            let what = format!("{what}; tried again, it passes");
            sheet.warn("transfer", what, Cause::Unsteady { why: error.to_string() });
            return Some(visit);
        }
        if let Some((smaller, visit)) = smaller {
            *way = smaller;
            let what = format!("{what}; in small packets it passes");
            sheet.warn("transfer", what, way.black_hole());
            return Some(visit);
        }
    }
    if matches!(error, VisitError::TooSlow)
        && let Ok(exchange) = way.dial().await
    {
        // The rest of that is still on its way on the connection before.
        sheet.warn("transfer", what, Cause::Slow { sent, received });
        return Some(Visit::new(exchange));
    }
    let how = if is_silent { "nothing comes any more".to_owned() } else { error.to_string() };
    sheet.fail("transfer", what, Cause::Cut { sent, received, how });
    None
}
