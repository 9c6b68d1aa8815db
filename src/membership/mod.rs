//! Who is alive, as one observer sees it.
