package cli

import (
	"fmt"
	"strings"
)

// metadataFlag is metadata, one entry for each use of the flag.
type metadataFlag map[string]string

func (m *metadataFlag) Set(text string) error {
	key, value, found := strings.Cut(text, "=")
	if !found || key == "" {
		return fmt.Errorf("metadata %q: want KEY=VALUE", text)
	}
	if *m == nil {
		*m = metadataFlag{}
	}
	(*m)[key] = value
	return nil
}

func (m *metadataFlag) String() string { return "" }
func (m *metadataFlag) Type() string   { return "KEY=VALUE" }
