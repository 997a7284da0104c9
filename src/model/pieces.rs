//! A long list in pieces: to grow, nothing is copied, and what takes it apart from the front frees it on the way.
//!
//! So a large artifact is read out of its stored bytes, and compiled out of its arrays, without a second place in
//! memory.

use std::iter::Flatten;
use std::ops::{Index, IndexMut};
use std::{slice, vec};

/// The size of a piece in bytes. Each is full but the last. What is freed has to be used again at once, because
/// mimalloc gives memory back after a second: of this size it is there for anything, while half of it waits until eight
/// of its kind are free.
const PIECE_BYTES: usize = 1 << 20;

/// A list of numbers, or of bytes, in pieces.
#[derive(Debug, Clone, PartialEq)]
pub struct Pieces<T> {
    pieces: Vec<Vec<T>>,
}

impl<T> Default for Pieces<T> {
    fn default() -> Pieces<T> {
        Pieces { pieces: Vec::new() }
    }
}

impl<T: Copy> Pieces<T> {
    /// The number of items of a full piece: a power of 2, so that an index is divided by a shift.
    const PIECE_ITEMS: usize = PIECE_BYTES / size_of::<T>();

    /// The number of items.
    pub fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * Self::PIECE_ITEMS + last.len())
    }

    /// Whether it has no items.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Appends an item.
    pub fn push(&mut self, item: T) {
        self.extend_from_slice(&[item]);
    }

    /// Appends items.
    pub fn extend_from_slice(&mut self, mut items: &[T]) {
        while !items.is_empty() {
            let (last, room) = self.room();
            let (here, rest) = items.split_at(items.len().min(room));
            last.extend_from_slice(here);
            items = rest;
        }
    }

    /// The last piece, which is not full, and how many items it has room for.
    fn room(&mut self) -> (&mut Vec<T>, usize) {
        let last = self.pieces.pop_if(|last| last.len() < Self::PIECE_ITEMS);
        // The first one grows with what comes; who has filled it may ask for a whole one more.
        let capacity = if self.pieces.is_empty() { 0 } else { Self::PIECE_ITEMS };
        let last = last.unwrap_or_else(|| Vec::with_capacity(capacity));
        let room = Self::PIECE_ITEMS - last.len();
        self.pieces.push(last);
        let end = self.pieces.len() - 1;
        (&mut self.pieces[end], room)
    }

    /// The items in order.
    pub fn iter(&self) -> Flatten<slice::Iter<'_, Vec<T>>> {
        self.pieces.iter().flatten()
    }

    /// The pieces in order.
    pub fn pieces(&self) -> slice::Iter<'_, Vec<T>> {
        self.pieces.iter()
    }

    /// The pieces in order, to be freed one after another.
    pub fn into_pieces(self) -> vec::IntoIter<Vec<T>> {
        self.pieces.into_iter()
    }
}

impl<T: Copy> Index<usize> for Pieces<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.pieces[index / Self::PIECE_ITEMS][index % Self::PIECE_ITEMS]
    }
}

impl<T: Copy> IndexMut<usize> for Pieces<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.pieces[index / Self::PIECE_ITEMS][index % Self::PIECE_ITEMS]
    }
}

impl<T: Copy> Extend<T> for Pieces<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let (last, room) = self.room();
            last.extend(items.by_ref().take(room));
        }
    }
}

impl<T: Copy> FromIterator<T> for Pieces<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Pieces<T> {
        let mut pieces = Pieces::default();
        pieces.extend(items);
        pieces
    }
}

impl<'p, T> IntoIterator for &'p Pieces<T> {
    type Item = &'p T;
    type IntoIter = Flatten<slice::Iter<'p, Vec<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.pieces.iter().flatten()
    }
}

/// Each piece is freed when its last item was taken.
impl<T> IntoIterator for Pieces<T> {
    type Item = T;
    type IntoIter = Flatten<vec::IntoIter<Vec<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.pieces.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_stand_in_order_however_they_came() {
        let numbers: Vec<u32> = (0..300_000).collect();
        let mut sliced = Pieces::default();
        numbers.chunks(70_001).for_each(|chunk| sliced.extend_from_slice(chunk));
        let mut pushed: Pieces<u32> = numbers.iter().copied().collect();
        assert_eq!((sliced.len(), sliced.pieces().len()), (numbers.len(), 2));
        assert!(sliced == pushed && sliced.iter().eq(&numbers));
        assert!(numbers.iter().all(|number| sliced[*number as usize] == *number));
        pushed[200_000] = 7;
        assert!(
            pushed
                .into_iter()
                .enumerate()
                .all(|(index, number)| number == [index as u32, 7][usize::from(index == 200_000)])
        );
        assert_eq!((Pieces::<u8>::default().len(), Pieces::<u8>::default().is_empty()), (0, true));
    }
}
