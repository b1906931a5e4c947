package cli

import (
	"slices"
	"strings"
)

// diffContext is how many unchanged lines are shown around a change.
const diffContext = 2

// maxDiff bounds the work of a diff: the product of both numbers of lines. Beyond it,
// everything between the first and the last change counts as changed.
const maxDiff = 4_000_000

// diff returns the changes between two texts, line by line.
func diff(was, is string) string {
	a, b := strings.Split(was, "\n"), strings.Split(is, "\n")
	head := 0
	for head < min(len(a), len(b)) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < min(len(a), len(b))-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	edits := make([]string, 0, len(a)+len(b))
	for _, text := range a[:head] {
		edits = append(edits, "  "+text)
	}
	edits = append(edits, changes(a[head:len(a)-tail], b[head:len(b)-tail])...)
	for _, text := range a[len(a)-tail:] {
		edits = append(edits, "  "+text)
	}
	var out strings.Builder
	for i, edit := range edits {
		near := edits[max(0, i-diffContext):min(len(edits), i+diffContext+1)]
		if slices.ContainsFunc(near, func(e string) bool { return e[0] != ' ' }) {
			out.WriteString(edit + "\n")
		}
	}
	return out.String()
}

// changes returns a longest common subsequence, with all other lines marked.
func changes(a, b []string) (edits []string) {
	if len(a)*len(b) > maxDiff {
		for _, text := range a {
			edits = append(edits, "- "+text)
		}
		for _, text := range b {
			edits = append(edits, "+ "+text)
		}
		return edits
	}
	common := make([][]int, len(a)+1) // length for a[i:] and b[j:]
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			edits, i, j = append(edits, "  "+a[i]), i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			edits, i = append(edits, "- "+a[i]), i+1
		default:
			edits, j = append(edits, "+ "+b[j]), j+1
		}
	}
	return edits
}
