use qnn_tensor::Padding;

/// How a convolution or a pool is padded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaddingRule {
    /// Not at all.
    #[default]
    Valid,
    /// By TensorFlow's rule: ⌈input / stride⌉ outputs, the odd row and column at the end. Depends
    /// on the size of the input.
    Same,
    /// By these numbers of rows and columns.
    Explicit(Padding),
}

impl PaddingRule {
    /// The padding of an input of a size, as `[height, width]` like the other arguments.
    pub fn resolve(self, input: [usize; 2], window: [usize; 2], stride: [usize; 2]) -> Padding {
        match self {
            Self::Valid => Padding::NONE,
            Self::Same => Padding::same(input, window, stride),
            Self::Explicit(padding) => padding,
        }
    }

    /// The size of the output, or `None` if the input is empty, if it is smaller than the window even
    /// when padded, or if the stride is zero.
    pub fn output(self, input: [usize; 2], window: [usize; 2], stride: [usize; 2]) -> Option<[usize; 2]> {
        let Padding { top, bottom, left, right } = self.resolve(input, window, stride);
        let size = |input: usize, padding: usize, window: usize, stride: usize| {
            let span = input.checked_add(padding)?.checked_sub(window).filter(|_| input > 0)?;
            Some(span.checked_div(stride)? + 1)
        };
        let height = size(input[0], top.checked_add(bottom)?, window[0], stride[0])?;
        let width = size(input[1], left.checked_add(right)?, window[1], stride[1])?;
        Some([height, width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_of_the_three_rules() {
        let output = |rule: PaddingRule, stride| rule.output([8, 7], [3, 3], [stride, stride]);
        assert_eq!(output(PaddingRule::Valid, 1), Some([6, 5]));
        assert_eq!(output(PaddingRule::Same, 1), Some([8, 7]));
        assert_eq!(output(PaddingRule::Same, 2), Some([4, 4]));
        let above = Padding { top: 1, ..Padding::NONE };
        assert_eq!(output(PaddingRule::Explicit(above), 2), Some([4, 3]));
        assert_eq!(PaddingRule::Valid.output([2, 8], [3, 3], [1, 1]), None);
        assert_eq!(output(PaddingRule::Valid, 0), None);
        assert_eq!(PaddingRule::Same.output([0, 4], [3, 3], [1, 1]), None);
    }
}
