use qnn_kernels::packed::Layout;

use crate::codes::encoding;
use crate::integer::ByteCodes;
use crate::program::{Action, Elements, Program, Value};

/// Where values lie: each in one of a few slots, which a later value takes over when nobody reads the
/// earlier one any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Bytes per image of each slot.
    pub(crate) slots: Vec<usize>,
    /// The slot of each value.
    pub(crate) of: Vec<usize>,
}

impl Plan {
    pub(crate) fn new(program: &Program) -> Self {
        let last_reads = last_reads(program);
        let mut plan = Self { slots: vec![program.values[0].bytes()], of: vec![0; program.values.len()] };
        let mut free = Vec::new();
        for (i, stage) in program.stages.iter().enumerate() {
            let bytes = program.values[stage.output].bytes();
            let ends = |value: usize| last_reads[value] == Some(i);
            plan.of[stage.output] = if ends(stage.input) && runs_in_place(program, i) {
                plan.of[stage.input]
            } else {
                plan.take(&mut free, bytes)
            };
            for value in [Some(stage.input), stage.operand].into_iter().flatten() {
                let slot = plan.of[value];
                if ends(value) && slot != plan.of[stage.output] && !free.contains(&slot) {
                    free.push(slot);
                }
            }
            if last_reads[stage.output].is_none() {
                free.push(plan.of[stage.output]);
            }
        }
        plan
    }

    /// The smallest free slot that is large enough; else the largest one, enlarged; else a new one.
    fn take(&mut self, free: &mut Vec<usize>, bytes: usize) -> usize {
        let fit = free.iter().enumerate().min_by_key(|&(_, &slot)| {
            let size = self.slots[slot];
            if size >= bytes { (false, size) } else { (true, usize::MAX - size) }
        });
        let Some((at, &slot)) = fit else {
            self.slots.push(bytes);
            return self.slots.len() - 1;
        };
        free.swap_remove(at);
        self.slots[slot] = self.slots[slot].max(bytes);
        slot
    }

    /// Bytes of all slots, per image.
    pub(crate) fn bytes(&self) -> u64 {
        self.slots.iter().map(|&bytes| bytes as u64).sum()
    }
}

/// The last stage that reads each value; the output is read after all of them.
fn last_reads(program: &Program) -> Vec<Option<usize>> {
    let mut last = vec![None; program.values.len()];
    for (i, stage) in program.stages.iter().enumerate() {
        [Some(stage.input), stage.operand].into_iter().flatten().for_each(|value| last[value] = Some(i));
    }
    last[program.output] = Some(program.stages.len());
    last
}

/// Functions of single elements need no second buffer where numbers stay numbers.
fn runs_in_place(program: &Program, stage: usize) -> bool {
    let stage = &program.stages[stage];
    let float = |value: usize| program.values[value].elements == Elements::Float;
    matches!(stage.action, Action::Chain(_))
        && float(stage.input)
        && float(stage.output)
        && stage.operand != Some(stage.input)
}

impl Value {
    /// Bytes per image.
    pub fn bytes(&self) -> usize {
        match self.layout() {
            None => 4 * self.len(),
            Some(layout) => layout.bytes_for(self.shape[0] * self.shape[1]),
        }
    }

    /// How its pixels lie, if they are packed.
    pub(crate) fn layout(&self) -> Option<Layout> {
        let codes = match self.elements {
            Elements::Float => return None,
            Elements::Bytes(_) => return Some(ByteCodes::layout(self.shape[2])),
            Elements::Packed(codes) => codes,
        };
        let encoding = encoding(codes).expect("the program was checked");
        Some(Layout::new(encoding, self.shape[2]).expect("the program was checked"))
    }
}

impl Program {
    /// The memory that a session needs for the values of one image, in bytes. Values whose time has
    /// passed make room for later ones.
    pub fn activation_bytes(&self) -> usize {
        usize::try_from(Plan::new(self).bytes()).unwrap_or(usize::MAX)
    }
}
