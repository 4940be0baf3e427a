package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestEveryExceptionNamesAFunctionThatExists(t *testing.T) {
	exceptions, err := readExceptions("exceptions.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range unknown("../..", exceptions) {
		t.Error(fault)
	}
}

func TestAnExceptionNeedsAFunctionACountAndAReason(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exceptions.txt")
	for text, valid := range map[string]bool{
		"./a F 1 a reason":                    true,
		"# a comment\n\n. T.M 2 a reason\n":   true,
		"./a F 1":                             false,
		"./a F 0 a reason":                    false,
		"./a F many a reason":                 false,
		"a F 1 a reason":                      false,
		"./a F 1 a reason\n./a F 1 a reason":  false,
		"./a F 1 a reason\n./b F 1 a reason,": true,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readExceptions(file); (err == nil) != valid {
			t.Errorf("%q: %v", text, err)
		}
	}
	list := []exception{{folder: ".", function: "functionsOf"}, {folder: ".", function: "finder.visit"}, {folder: ".", function: "gone"}}
	if faults := unknown(".", list); len(faults) != 1 {
		t.Errorf("want one fault, got %v", faults)
	}
}
