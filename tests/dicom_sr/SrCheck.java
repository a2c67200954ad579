import com.pixelmed.validate.DicomSRValidator;

/** PixelMed's SR validator on many files in one virtual machine: to compile its templates takes longer than a file. */
class SrCheck {
    public static void main(String[] files) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        for (String file : files) {
            System.out.println("== " + file);
            System.out.println(validator.validate(file));
        }
    }
}
