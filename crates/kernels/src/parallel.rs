//! Splitting work over threads. One token of a language model is a hundred short matrix-vector
//! products, so the workers spin for a moment before they sleep: waking a sleeping thread costs
//! more than many of the products.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

/// How many times a worker looks for the next task before it sleeps (some 50 microseconds).
const SPINS: usize = 20_000;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// The job that the workers see: a task of `parts` parts, of which `next` is the next one to take.
struct Job {
    /// Counts the jobs; a worker that sees it change has something to do.
    number: AtomicUsize,
    task: Mutex<Option<(Task<'static>, usize)>>,
    next: AtomicUsize,
    /// Workers that hold the current task.
    active: AtomicUsize,
    panicked: AtomicUsize,
    asleep: Mutex<usize>,
    wake: Condvar,
}

struct Pool {
    job: Arc<Job>,
    /// Held while a job runs: jobs from several threads take turns.
    turn: Mutex<()>,
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

static COUNT: OnceLock<usize> = OnceLock::new();

/// The number of threads that share the work: what [`set_threads`] said, or `WHIT_THREADS`, or else
/// what the system offers.
pub fn threads() -> usize {
    *COUNT.get_or_init(|| {
        let wish = std::env::var("WHIT_THREADS").ok().and_then(|text| text.parse().ok());
        let found = || std::thread::available_parallelism().map_or(1, usize::from);
        wish.filter(|&count: &usize| count > 0).unwrap_or_else(found)
    })
}

/// Sets the number of threads, for these kernels and for Burn's. Returns whether it did: the first
/// kernel that runs settles the number for the life of the process.
pub fn set_threads(count: usize) -> bool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build_global();
    COUNT.set(count.max(1)).is_ok() && pool.is_ok()
}

/// Calls `task(part)` once for every `part` in `0..parts`, over all threads; returns when all are done.
///
/// A call from inside a task runs its parts on the calling thread.
///
/// # Panics
/// If the task panics in any part.
pub fn run(parts: usize, task: impl Fn(usize) + Sync) {
    let alone = parts <= 1 || threads() == 1 || INSIDE.get();
    if alone {
        (0..parts).for_each(task);
        return;
    }
    pool().run(parts, &task);
}

/// Splits `0..length` into ranges whose ends are multiples of `grain`, a few for each thread, and
/// calls `task` on each of them.
pub fn ranges(length: usize, grain: usize, task: impl Fn(Range<usize>) + Sync) {
    let grains = length.div_ceil(grain.max(1));
    let parts = grains.min(threads() * 4).max(1);
    let size = grains.div_ceil(parts) * grain.max(1);
    run(length.div_ceil(size.max(1)), |part| task(part * size..length.min((part + 1) * size)));
}

/// Splits `data` into pieces of `size` values and calls `task(index, piece)` on each, over all threads.
pub fn pieces<T: Send>(data: &mut [T], size: usize, task: impl Fn(usize, &mut [T]) + Sync) {
    let length = data.len();
    let base = Shared(data.as_mut_ptr());
    run(length.div_ceil(size.max(1)), |part| {
        let start = part * size;
        let count = size.min(length - start);
        // SAFETY: parts are disjoint ranges within `data`, each visited once, while `data` is borrowed.
        task(part, unsafe { std::slice::from_raw_parts_mut(base.at(start), count) });
    });
}

/// A pointer that may be handed to other threads; whoever uses it keeps the writes apart.
#[derive(Debug)]
pub(crate) struct Shared<T>(pub(crate) *mut T);

// SAFETY: a `Shared` is only an address; every dereference states why it does not race.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The address of element `index`.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool::new(threads() - 1))
}

impl Pool {
    fn new(workers: usize) -> Self {
        let job = Arc::new(Job {
            number: AtomicUsize::new(0),
            task: Mutex::new(None),
            next: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            panicked: AtomicUsize::new(0),
            asleep: Mutex::new(0),
            wake: Condvar::new(),
        });
        (0..workers).for_each(|_| Self::start(&job));
        Self { job, turn: Mutex::new(()) }
    }

    /// Starts a worker; where the system refuses, the others do its share.
    fn start(job: &Arc<Job>) {
        let job = Arc::clone(job);
        drop(std::thread::Builder::new().name("whit-worker".into()).spawn(move || job.work()));
    }

    fn run(&self, parts: usize, task: Task<'_>) {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: workers take the reference only while `task` holds it, and count themselves in
        // `active` until they are done with it; this function empties `task` and waits for zero.
        let task: Task<'static> = unsafe { std::mem::transmute(task) };
        let job = &*self.job;
        job.next.store(0, Ordering::SeqCst);
        *lock(&job.task) = Some((task, parts));
        job.number.fetch_add(1, Ordering::SeqCst);
        if *lock(&job.asleep) > 0 {
            job.wake.notify_all();
        }
        job.take(task, parts);
        *lock(&job.task) = None;
        job.wait_for_workers();
        let panicked = job.panicked.swap(0, Ordering::Relaxed) > 0;
        drop(turn);
        assert!(!panicked, "a task panicked on a worker thread");
    }
}

impl Job {
    fn work(&self) {
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            if let Some((task, parts)) = self.join() {
                self.take(task, parts);
                self.active.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// The current task, with this worker counted in; none where the job has already ended.
    fn join(&self) -> Option<(Task<'static>, usize)> {
        let task = lock(&self.task);
        if task.is_some() {
            self.active.fetch_add(1, Ordering::SeqCst);
        }
        *task
    }

    fn wait_for_workers(&self) {
        let mut looks = 0;
        while self.active.load(Ordering::SeqCst) > 0 {
            looks += 1;
            if looks < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }

    /// Waits until the number of jobs is no longer `seen`, and returns it.
    fn wait(&self, seen: usize) -> usize {
        for _ in 0..SPINS {
            let number = self.number.load(Ordering::SeqCst);
            if number != seen {
                return number;
            }
            std::hint::spin_loop();
        }
        let mut asleep = lock(&self.asleep);
        *asleep += 1;
        while self.number.load(Ordering::SeqCst) == seen {
            asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
        *asleep -= 1;
        self.number.load(Ordering::SeqCst)
    }

    fn take(&self, task: Task<'_>, parts: usize) {
        INSIDE.set(true);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            loop {
                let part = self.next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    break;
                }
                task(part);
            }
        }));
        INSIDE.set(false);
        if outcome.is_err() {
            self.panicked.fetch_add(1, Ordering::Relaxed);
            self.next.store(parts, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once() {
        for parts in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            run(parts, |part| {
                counts[part].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn ranges_cover_the_length_in_multiples_of_the_grain() {
        let sum = AtomicUsize::new(0);
        ranges(1003, 16, |range| {
            assert!(range.start % 16 == 0);
            sum.fetch_add(range.sum::<usize>(), Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 1003 * 1002 / 2);
    }

    #[test]
    fn nested_and_concurrent_calls_finish() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let total = AtomicUsize::new(0);
                    run(50, |_| {
                        run(10, |_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        })
                    });
                    assert_eq!(total.into_inner(), 500);
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let outcome = std::panic::catch_unwind(|| run(8, |part| assert!(part != 3)));
        assert!(outcome.is_err());
        run(8, |_| {});
    }

    #[test]
    fn pieces_are_disjoint() {
        let mut data = vec![0usize; 100];
        pieces(&mut data, 7, |index, piece| piece.fill(index));
        assert!(data.iter().enumerate().all(|(i, &value)| value == i / 7));
    }
}
