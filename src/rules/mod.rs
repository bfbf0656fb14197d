//! Alert rules: pending, firing, resolved; send or not, with the reason.
