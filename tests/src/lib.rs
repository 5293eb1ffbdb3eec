//! What the tests share: namespaces, programs under test, evidence they leave.
