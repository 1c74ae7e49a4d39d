//! The parts of a grid that most maps do without.

use super::Grid;
use crate::{Error, Groups, Result};

impl Grid {
    /// The same grid with all levels divided by an integer, exactly.
    ///
    /// # Errors
    ///
    /// [`Error::Grid`] if the denominator is 0, above 2^24, or set already.
    pub fn divided_by(mut self, denominator: u32) -> Result<Self> {
        if self.denominator != 1 || !(1..=1 << 24).contains(&denominator) {
            let value = format!("{denominator} after {}", self.denominator);
            let expected = "1 to 2^24, set once".to_owned();
            return Err(Error::Grid { what: "the denominator", value, expected });
        }
        self.denominator = denominator;
        self.scales =
            self.numerators.iter().map(|&scale| (f64::from(scale) / f64::from(denominator)) as f32).collect();
        Ok(self)
    }

    /// The same grid with the number per group that the map's codes depend on: a threshold, a largest element.
    ///
    /// # Errors
    ///
    /// [`Error::Grid`] if there is not one per group.
    pub fn with_statistics(mut self, statistics: Vec<f64>) -> Result<Self> {
        one_per_group("the number of statistics", statistics.len(), self.groups)?;
        self.statistics = statistics;
        Ok(self)
    }

    /// The same grid, of whose alphabet only these codes occur: powers of two, written as integers.
    ///
    /// # Errors
    ///
    /// [`Error::Grid`] unless the members increase and lie in the alphabet, or if there are thresholds or zero points already.
    pub fn with_members(mut self, members: Vec<i32>) -> Result<Self> {
        let inside = |code: &i32| self.alphabet.is_some_and(|alphabet| alphabet.contains(*code));
        let is_late = self.thresholds.is_some() || !self.zero_points.is_empty();
        if is_late || members.is_empty() || !members.is_sorted_by(|a, b| a < b) || !members.iter().all(inside)
        {
            let value = format!("{members:?}");
            let expected =
                format!("increasing codes of {:?}, before thresholds and without zero points", self.alphabet);
            return Err(Error::Grid { what: "the members", value, expected });
        }
        self.members = Some(members.into());
        Ok(self)
    }

    /// The same grid with a value for each code: `table[group · count + position of the code]`, in increasing order within a
    /// group (or NaN, of a tensor that diverged).
    ///
    /// # Errors
    ///
    /// [`Error::Grid`] if there is not one value per code and group, if a group's values decrease, or if there are zero points.
    pub fn with_table(mut self, table: Vec<f32>) -> Result<Self> {
        let count = self.alphabet.map_or(0, |alphabet| alphabet.count as usize);
        let expected = || {
            let groups = self.groups.count();
            format!("{count} values in increasing order for each of {groups} groups, without zero points")
        };
        let what = "the table";
        if count == 0 || !self.zero_points.is_empty() || table.len() != count * self.groups.count() {
            return Err(Error::Grid { what, value: format!("{} values", table.len()), expected: expected() });
        }
        if let Some(row) = table.chunks_exact(count).find(|row| row.windows(2).any(|pair| pair[0] > pair[1]))
        {
            return Err(Error::Grid { what, value: format!("{row:?}"), expected: expected() });
        }
        self.table = Some(table.into());
        Ok(self)
    }

    /// The same grid for affine quantization: the alphabet is that of the *stored* integers `q`, and a group's codes are
    /// `q − Z` with a zero point `Z` of its own.
    ///
    /// # Errors
    ///
    /// [`Error::Grid`] unless there is one zero point per group and all lie in the alphabet, or if there are members or a table.
    pub fn with_zero_points(mut self, zero_points: Vec<i32>) -> Result<Self> {
        one_per_group("the number of zero points", zero_points.len(), self.groups)?;
        let is_even = self.members.is_none() && self.table.is_none();
        let inside = |zero: &i32| is_even && self.alphabet.is_some_and(|alphabet| alphabet.contains(*zero));
        if let Some(zero) = zero_points.iter().find(|zero| !inside(zero)) {
            let (value, expected) =
                (zero.to_string(), format!("one of {:?}, without members or a table", self.alphabet));
            return Err(Error::Grid { what: "a zero point", value, expected });
        }
        self.zero_points = zero_points;
        Ok(self)
    }

    /// The same grid with the inputs at which the code changes, per group, where these are not the midpoints between
    /// neighbouring values.
    ///
    /// # Errors
    ///
    /// [`Error::Grid`] if there is not one threshold between each two neighbouring codes of each group.
    pub fn with_thresholds(mut self, thresholds: Vec<f32>) -> Result<Self> {
        let each = self.count().saturating_sub(1);
        if each == 0 || thresholds.len() != each * self.groups.count() {
            let (value, groups) = (thresholds.len().to_string(), self.groups.count());
            let expected = format!("{each} for each of {groups} groups");
            return Err(Error::Grid { what: "the number of thresholds", value, expected });
        }
        self.thresholds = Some(thresholds.into());
        Ok(self)
    }
}

pub(super) fn one_per_group(what: &'static str, found: usize, groups: Groups) -> Result<()> {
    if found == groups.count() {
        return Ok(());
    }
    Err(Error::Grid {
        what,
        value: found.to_string(),
        expected: format!("{}, one per group", groups.count()),
    })
}
