package examples_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryExampleIsInTheTable(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	folders, err := filepath.Glob("*/README.md")
	if err != nil || len(folders) == 0 {
		t.Fatalf("examples: got %v, %v, want some", folders, err)
	}
	for _, path := range folders {
		folder := filepath.Dir(path)
		if !strings.Contains(string(text), "| ["+folder+"]("+folder+") |") {
			t.Errorf("README.md: no line of the table leads to %s", folder)
		}
	}
}
