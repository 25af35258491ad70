"""How it is computed: targets, layouts, schedules, the Loop IR, and its translation to LLVM IR."""
