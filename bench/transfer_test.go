package main

import "testing"

func TestTransfers(t *testing.T) {
	for _, what := range []string{connections, listeners} {
		all, err := transfers(what, []int{1, 300}, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 2*2*len(movers) {
			t.Fatalf("%d results", len(all))
		}
		for _, x := range all {
			t.Logf("%s %d %s warm %v: %v %v %v", x.What, x.Count, x.Contender, x.Warm, x.Owned.Median/1e6, x.First.Median/1e6, x.Last.Median/1e6)
			if x.Owned.Median <= 0 || x.First.Median < x.Owned.Median || x.Last.Median < x.First.Median {
				t.Errorf("%+v", x)
			}
		}
	}
}
