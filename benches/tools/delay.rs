//! A longer way: takes connections on one port, passes each chunk on to another one after a fixed
//! time. Neither throughput nor one connection for another is held back; only the way is longer.
//!
//! Usage: delay LISTEN_PORT TARGET_PORT ONE_WAY_MICROSECONDS

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes read at a time: more than any mail of these measurements.
const CHUNK_BYTES: usize = 64 << 10;
/// For each thread; two each way and connection.
const STACK_BYTES: usize = 128 << 10;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let [listen, target, one_way_us] = numbers[..] else { panic!("delay LISTEN_PORT TARGET_PORT ONE_WAY_MICROSECONDS") };
    let one_way = Duration::from_micros(one_way_us);
    let listener = TcpListener::bind(("127.0.0.1", listen as u16)).expect("the port is free");
    for near in listener.incoming().flatten() {
        let arrived = Instant::now();
        start(move || {
            // The connection itself needs one round trip.
            thread::sleep((one_way * 2).saturating_sub(arrived.elapsed()));
            let Ok(far) = TcpStream::connect(("127.0.0.1", target as u16)) else { return };
            let copies = near.try_clone().and_then(|near| Ok((near, far.try_clone()?)));
            let (near_again, far_again) = copies.expect("a descriptor");
            carry(near, far_again, one_way);
            carry(far, near_again, one_way);
        });
    }
}

/// One direction: a thread that reads and one that waits and writes.
fn carry(mut from: TcpStream, mut to: TcpStream, one_way: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    to.set_nodelay(true).expect("a socket");
    start(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + one_way, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    start(move || {
        for (due_at, chunk) in receiver {
            thread::sleep(due_at.saturating_duration_since(Instant::now()));
            if to.write_all(&chunk).is_err() {
                break;
            }
        }
        // Fails where the other side has gone already.
        let _ = to.shutdown(Shutdown::Write);
    });
}

fn start(work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(STACK_BYTES).spawn(work).expect("a thread");
}
