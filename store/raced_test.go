//go:build race

package store_test

// raced says whether the race detector is on, with which all takes ten times as long.
const raced = true
