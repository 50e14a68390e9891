// Package sysfd holds what the packages of fdkit do to descriptor numbers: borrow one from its
// owner, create a pair, keep a number out of the runtime's poller until something has to wait,
// and close many at once.
//
// A number is owned by whoever got it from here and is born close-on-exec. Nothing in this
// package knows about messages or identities.
package sysfd
