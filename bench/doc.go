// Bench measures fdkit side by side with plain C and with the libraries of its field: all contenders in one
// run, in turn, round by round, as ratios to C of the same round. See docs/benchmarks.md.
//
//	bash run.sh                 everything, with results as JSON, Markdown and a picture
//	go run . --only message     a part of it
//	go test -bench .            the same, told by go test
package main
