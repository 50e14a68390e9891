// Package testutil is what the tests of fdkit have in common: a check for leaked descriptors, other
// processes, a full descriptor table, other users, and probes for what the kernel has. Only tests
// import it.
//
// A test that touches descriptors starts with [NoLeaks] and does not run in parallel. A test that
// needs another process registers a [Helper] in the file that uses it; it runs in the same test
// binary, started again, and a helper that no test used fails the run. A package with helpers calls
// [Main] from its TestMain.
package testutil
