//! Sends back whatever comes.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Enough for one buffer; thousands of idle connections have a thread each.
const STACK_BYTES: usize = 64 * 1024;

/// Serves until it is killed.
pub(super) fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for stream in listener.incoming() {
        // One connection that fails is the other end's affair.
        let Ok(stream) = stream else { continue };
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || send_back(stream))?;
    }
    Ok(())
}

fn send_back(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    if stream.set_nodelay(true).is_err() {
        return;
    }
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
