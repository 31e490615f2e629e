"""What tests share: choices of rules and options, examples, engines, comparisons to the bit."""
