//! The Universal Scalability Law: how throughput grows with concurrency, and why it stops.
//!
//! `X(N) = λN / (1 + σ(N-1) + κN(N-1))` (Gunther, "Guerrilla Capacity Planning", 2007): λ is what one request at a time
//! gets done, σ the share of the work that only one can do at a time (contention), κ what each costs each other
//! (coherency): with κ above zero throughput falls again past `N* = √((1-σ)/κ)`.
//!
//! By Little's law a request takes `R = N / X`, so that the law is a line in `a + b(N-1) + cN(N-1) = R` with `a = 1/λ`,
//! `b = σ/λ`, `c = κ/λ`. It is fitted there, by least squares with weights `1/R²`: latencies err by a share of themselves.
//! None of the three may be below zero; with so few unknowns the best of all sets of those that are not zero is found by trying
//! each, without any iteration that might not end.
//!
//! Pure. What it does not do: tell whether the law is the right one. [`Fit::explained`] says how much of what was
//! measured it explains.

/// What was measured at one load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Requests under way, on average.
    pub concurrency: f64,
    /// Requests done per second.
    pub throughput: f64,
}

/// The law as it fits a service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// λ: requests per second of one at a time.
    pub alone: f64,
    /// σ: contention.
    pub contention: f64,
    /// κ: coherency.
    pub coherency: f64,
    /// Share of the variance of the throughput that is explained, at most 1 (R²).
    pub explained: f64,
}

/// The most throughput that a law foresees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Peak {
    /// It grows for ever.
    None,
    /// It comes ever nearer to this.
    Ceiling(f64),
    /// There, and falls again past it.
    At(Point),
}

/// Fewer points than this fit anything.
pub const POINTS_MIN: usize = 4;

impl Fit {
    /// The throughput that the law foresees at this concurrency.
    #[must_use]
    pub fn throughput(&self, concurrency: f64) -> f64 {
        let more = concurrency - 1.0;
        let cost = 1.0 + self.contention * more + self.coherency * concurrency * more;
        // Below one request at a time the law is stretched past its domain, and must not divide by nothing.
        self.alone * concurrency / cost.max(f64::MIN_POSITIVE)
    }

    /// The most that it foresees.
    #[must_use]
    pub fn peak(&self) -> Peak {
        if self.coherency > 0.0 && self.contention < 1.0 {
            let concurrency = ((1.0 - self.contention) / self.coherency).sqrt().max(1.0);
            Peak::At(Point { concurrency, throughput: self.throughput(concurrency) })
        } else if self.contention > 0.0 {
            Peak::Ceiling(self.alone / self.contention)
        } else {
            Peak::None
        }
    }
}

/// Fits the law. `None`: too few points, or they tell nothing.
#[must_use]
pub fn fit(points: &[Point]) -> Option<Fit> {
    let known = |point: &&Point| {
        let is_known = |value: f64| value.is_finite() && value > 0.0;
        is_known(point.concurrency) && is_known(point.throughput)
    };
    let points: Vec<Point> = points.iter().filter(known).copied().collect();
    if points.len() < POINTS_MIN {
        return None;
    }
    let rows: Vec<Row> = points.iter().map(Row::of).collect();
    let sets = [[true, true, true], [true, true, false], [true, false, true], [true, false, false]];
    let solved = sets.iter().filter_map(|set| solve(&rows, *set));
    let allowed = solved.filter(|[a, b, c]| *a > 0.0 && *b >= 0.0 && *c >= 0.0);
    let [a, b, c] = allowed.min_by(|one, other| wrong(&rows, one).total_cmp(&wrong(&rows, other)))?;
    let mut fit = Fit { alone: 1.0 / a, contention: b / a, coherency: c / a, explained: 0.0 };
    fit.explained = explained(&points, &fit);
    Some(fit)
}

/// One equation: what `a`, `b` and `c` are multiplied by, and what should come of it, all over its own latency.
struct Row {
    factors: [f64; 3],
}

impl Row {
    fn of(point: &Point) -> Row {
        let latency = point.concurrency / point.throughput;
        let more = point.concurrency - 1.0;
        Row { factors: [1.0, more, point.concurrency * more].map(|factor| factor / latency) }
    }
}

/// The sum of squares that is left. What should come is 1 in each row.
fn wrong(rows: &[Row], solution: &[f64; 3]) -> f64 {
    let left = |row: &Row| 1.0 - row.factors.iter().zip(solution).map(|(f, x)| f * x).sum::<f64>();
    rows.iter().map(|row| left(row).powi(2)).sum()
}

/// Least squares of the unknowns in a set, the others being zero: the normal equations, each unknown in its own scale.
fn solve(rows: &[Row], set: [bool; 3]) -> Option<[f64; 3]> {
    let used: Vec<usize> = (0..3).filter(|index| set[*index]).collect();
    let norm = |index: usize| rows.iter().map(|row| row.factors[index].powi(2)).sum::<f64>().sqrt();
    let scale: Vec<f64> = used.iter().map(|index| norm(*index)).collect();
    if scale.iter().any(|scale| !scale.is_finite() || *scale <= 0.0) {
        return None;
    }
    let size = used.len();
    let mut matrix = [[0.0f64; 4]; 3];
    for row in rows {
        let own: Vec<f64> =
            used.iter().zip(&scale).map(|(index, scale)| row.factors[*index] / scale).collect();
        for line in 0..size {
            for column in 0..size {
                matrix[line][column] += own[line] * own[column];
            }
            matrix[line][3] += own[line];
        }
    }
    let scaled = eliminate(&mut matrix, size)?;
    let mut solution = [0.0; 3];
    for ((index, scale), value) in used.iter().zip(&scale).zip(scaled) {
        solution[*index] = value / scale;
    }
    solution.iter().all(|value| value.is_finite()).then_some(solution)
}

/// Gauss with pivots, right-hand side in the last column. `None`: the equations do not tell the unknowns apart.
fn eliminate(matrix: &mut [[f64; 4]; 3], size: usize) -> Option<[f64; 3]> {
    /// Of entries that are 1 where two unknowns are one.
    const NOTHING: f64 = 1e-10;
    for column in 0..size {
        let pivot = (column..size)
            .max_by(|one, other| matrix[*one][column].abs().total_cmp(&matrix[*other][column].abs()))?;
        matrix.swap(column, pivot);
        if matrix[column][column].abs() < NOTHING {
            return None;
        }
        let pivot = matrix[column];
        for (_, line) in matrix.iter_mut().take(size).enumerate().filter(|(line, _)| *line != column) {
            let factor = line[column] / pivot[column];
            for (value, above) in line.iter_mut().zip(pivot) {
                *value -= factor * above;
            }
        }
    }
    let mut solution = [0.0; 3];
    for (line, value) in solution.iter_mut().enumerate().take(size) {
        *value = matrix[line][3] / matrix[line][line];
    }
    Some(solution)
}

fn explained(points: &[Point], fit: &Fit) -> f64 {
    let mean = points.iter().map(|point| point.throughput).sum::<f64>() / points.len() as f64;
    let total: f64 = points.iter().map(|point| (point.throughput - mean).powi(2)).sum();
    let left: f64 =
        points.iter().map(|point| (point.throughput - fit.throughput(point.concurrency)).powi(2)).sum();
    if total > 0.0 { 1.0 - left / total } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The law itself, measured at ever doubled concurrency, each time wrong by one of these shares.
    fn measured(law: Fit, errors: &[f64]) -> Vec<Point> {
        let concurrencies = (0..errors.len()).map(|step| 0.5 * 1.7f64.powi(step as i32));
        concurrencies
            .zip(errors)
            .map(|(concurrency, error)| Point {
                concurrency,
                throughput: law.throughput(concurrency) * (1.0 + error),
            })
            .collect()
    }

    fn law(alone: f64, contention: f64, coherency: f64) -> Fit {
        Fit { alone, contention, coherency, explained: 1.0 }
    }

    #[test]
    fn a_server_with_slots_has_its_most_near_what_they_do() {
        // Eight slots of 20 ms: 400 a second, whatever waits before them. Its knee is sharper than the law knows.
        let points: Vec<Point> = [0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0]
            .map(|concurrency: f64| Point { concurrency, throughput: concurrency.min(8.0) * 50.0 })
            .into();
        let fit = fit(&points).unwrap();
        let (Peak::At(Point { throughput: most, .. }) | Peak::Ceiling(most)) = fit.peak() else {
            panic!("{fit:?}")
        };
        assert!((350.0..510.0).contains(&most), "{fit:?}");
        assert!((0.9..0.95).contains(&fit.explained), "{fit:?}");
    }

    #[test]
    fn too_few_points_and_points_that_are_none_fit_nothing() {
        let point = Point { concurrency: 1.0, throughput: 10.0 };
        assert_eq!(fit(&[point; 3]), None);
        assert_eq!(fit(&[Point { concurrency: f64::NAN, throughput: 0.0 }; 9]), None);
        // One place alone tells what one gets done there, and no more.
        let flat = fit(&[point; 9]).unwrap();
        assert_eq!((flat.contention, flat.coherency, flat.peak()), (0.0, 0.0, Peak::None));
    }

    proptest! {
        #[test]
        fn finds_the_law_that_made_the_points(
            alone in 1.0f64..1e4, contention in 0.0f64..0.5, coherency in 1e-6f64..1e-2,
        ) {
            let truth = law(alone, contention, coherency);
            let found = fit(&measured(truth, &[0.0; 14])).unwrap();
            prop_assert!((found.alone / alone - 1.0).abs() < 1e-3, "{:?}", found);
            prop_assert!((found.contention - contention).abs() < 1e-3, "{:?}", found);
            prop_assert!((found.coherency / coherency - 1.0).abs() < 1e-2, "{:?}", found);
            prop_assert!(found.explained > 0.999);
        }

        #[test]
        fn noise_moves_the_peak_by_little(
            alone in 10.0f64..1e3, contention in 0.01f64..0.1, coherency in 5e-4f64..5e-3,
            errors in proptest::collection::vec(-0.05f64..0.05, 14),
        ) {
            let truth = law(alone, contention, coherency);
            let found = fit(&measured(truth, &errors)).unwrap();
            let (Peak::At(wanted), Peak::At(peak)) = (truth.peak(), found.peak()) else {
                return Err(TestCaseError::fail(format!("{found:?}")));
            };
            let ratio = peak.throughput / wanted.throughput;
            prop_assert!((0.85..1.15).contains(&ratio), "{} {:?}", ratio, found);
        }

        #[test]
        fn whatever_is_measured_gives_a_law_that_never_promises_less_than_nothing(
            points in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..30), at in 1.0f64..1e6,
        ) {
            let points: Vec<_> =
                points.into_iter().map(|(concurrency, throughput)| Point { concurrency, throughput }).collect();
            if let Some(fit) = fit(&points) {
                prop_assert!(fit.alone > 0.0 && fit.contention >= 0.0 && fit.coherency >= 0.0, "{:?}", fit);
                prop_assert!(fit.throughput(at) >= 0.0);
            }
        }
    }
}
