// Package holder is the substance of fdpass hold, store, retrieve, list, delete and transfer: a process
// that keeps descriptors under names for others, and its clients. They speak the protocol of
// s6-fdholder, so s6's programs work with this holder and these clients with s6's.
//
// A descriptor is the holder's once the answer to store says 0, and its client's once it has arrived
// with the answer to retrieve. What is refused is closed. A descriptor of somebody else's can make
// close(2) wait; it is closed in the background then, and counts until that is over.
package holder
