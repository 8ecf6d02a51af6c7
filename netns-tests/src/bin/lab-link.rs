//! The process that is an impaired link; see `netns_tests::link`.
#![forbid(unsafe_code)]

use std::io;
use std::process::{self, ExitCode};
use std::thread;

use clap::Parser;
use netns_tests::Link;
use netns_tests::link::{Counters, open, pump};

/// Joins two TAP devices of two namespaces by an impaired link.
#[derive(Debug, Parser)]
struct Arguments {
    /// One end, as NAMESPACE:DEVICE.
    near: String,
    /// The other end.
    far: String,
    #[command(flatten)]
    link: Link,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    // Both before any thread starts: a namespace is entered by a thread for itself.
    let near = open(&arguments.near, &arguments.link)?;
    let far = open(&arguments.far, &arguments.link)?;
    let [outwards, inwards] = [Counters::default(), Counters::default()];
    let link = arguments.link;
    thread::scope(|scope| {
        scope.spawn(|| end_with(pump(&near, &far, link, 0, &outwards)));
        scope.spawn(|| end_with(pump(&far, &near, link, 1, &inwards)));
        println!("ready");
        for (line, number) in io::stdin().lines().zip(1..) {
            line?;
            println!("counts {number} {} | {}", outwards.counts(), inwards.counts());
        }
        // The pumps never end by themselves.
        process::exit(0)
    })
}

/// A link with one direction left is no link.
fn end_with(result: io::Result<()>) {
    if let Err(error) = result {
        println!("failed: {error}");
        process::exit(1);
    }
}
