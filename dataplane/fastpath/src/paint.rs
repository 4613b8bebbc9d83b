//! Interval overlay: for each point, the first interval that covers it.

/// Where intervals begin, and which of them has what follows (`None`: nobody), for intervals in falling precedence over
/// `0..=last`. Neighbours of the same owner are one. Sorting is all that costs more than linear time.
pub fn paint(intervals: &[(u128, u128)], last: u128) -> Vec<(u128, Option<usize>)> {
    let mut starts: Vec<u128> = vec![0];
    for (low, high) in intervals {
        starts.push(*low);
        if *high < last {
            starts.push(high + 1);
        }
    }
    starts.sort_unstable();
    starts.dedup();
    let mut owner: Vec<Option<usize>> = vec![None; starts.len()];
    // The next unpainted piece at or behind each, with path halving.
    let mut next: Vec<usize> = (0..=starts.len()).collect();
    for (which, (low, high)) in intervals.iter().enumerate() {
        let mut at = find(&mut next, starts.partition_point(|s| s < low));
        while starts.get(at).is_some_and(|s| s <= high) {
            if let (Some(owner), Some(next)) = (owner.get_mut(at), next.get_mut(at)) {
                *owner = Some(which);
                *next = at + 1;
            }
            at = find(&mut next, at + 1);
        }
    }
    let mut pieces: Vec<(u128, Option<usize>)> = starts.into_iter().zip(owner).collect();
    pieces.dedup_by_key(|(_, owner)| *owner);
    pieces
}

fn find(next: &mut [usize], mut at: usize) -> usize {
    loop {
        let Some(&to) = next.get(at) else { return at };
        if to == at {
            return at;
        }
        let further = next.get(to).copied().unwrap_or(to);
        if let Some(next) = next.get_mut(at) {
            *next = further;
        }
        at = further;
    }
}
