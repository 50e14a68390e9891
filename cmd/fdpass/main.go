// Command fdpass passes file descriptors between processes, for people who do not write Go: it holds
// sockets and restarts programs behind them, keeps descriptors for whoever asks, sends and receives
// them, and says what they are.
//
// See fdpass --help, and the recipes in README.md.
package main

import "os"

func main() { os.Exit(run(os.Args[1:])) }
