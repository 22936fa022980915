//! Errors of graphs.

/// A graph that breaks a rule of the IR or of its profile.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// A graph was put together with operands that do not fit.
    #[error("{op}: {problem} (at {location})")]
    Operands {
        /// The op.
        op: String,
        /// Operand shapes and the rule they break.
        problem: String,
        /// The caller's source line.
        location: String,
    },
    /// A graph breaks a rule of the IR; a compiler pass is at fault.
    #[error("graph '{graph}' is malformed: {problem}")]
    Malformed {
        /// The graph's name.
        graph: String,
        /// The rule and the node that breaks it.
        problem: String,
    },
    /// Elementwise arithmetic took dispatches of its own where a profile forbids it.
    #[error(
        "graph '{graph}': fusion.assert_clean is set, and these share no dispatch with another op: {}; \
         clear it, or what keeps them apart (fusion.policy, fusion.skip, the backend's table)",
        regions.join(", ")
    )]
    Unfused {
        /// The graph's name.
        graph: String,
        /// Labels of the regions.
        regions: Vec<String>,
    },
}
